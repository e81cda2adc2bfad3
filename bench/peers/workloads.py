# SPDX-License-Identifier: Apache-2.0
"""What every engine is asked to do: token-id prompts and exact answer lengths, the same for all, from fixed seeds."""

import dataclasses
import random

VOCABULARY = 49152  # SmolLM2's; ids below 100 are left out, special tokens are among them

# (quantile, tokens): ShareGPT prompts as FuseSpill reports them and ShareGPT answers as Sarathi does. Sampling the
# table keeps the long tail that a fitted lognormal loses.
SHAREGPT_PROMPT = [(0, 4), (.10, 11), (.25, 20), (.50, 96), (.75, 397), (.90, 665), (.95, 840), (.99, 999), (1, 1024)]
SHAREGPT_ANSWER = [(0, 8), (.10, 84), (.25, 228), (.50, 415), (.75, 628), (.90, 834), (.95, 920), (.99, 998), (1, 1024)]
SHAREGPT_TOTAL_MAX = 1512


@dataclasses.dataclass
class Workload:
    name: str
    title: str
    unit: str  # "s" counts down to better, "tok/s" up
    prompts: list
    max_tokens: list
    concurrency: int

    def value(self, report):
        """The workload's one figure, out of a driver's answer."""
        if self.unit == "s":
            return report["first"][0]
        if len(self.prompts) == 1:
            return (report["tokens"][0] - 1) / (report["last"][0] - report["first"][0])
        return sum(report["tokens"]) / report["seconds"]

    def job(self):
        return {"prompts": self.prompts, "max_tokens": self.max_tokens, "concurrency": self.concurrency}


def prompt(rng, tokens):
    return [rng.randrange(100, VOCABULARY) for _ in range(tokens)]


def sample(table, u):
    """The length at quantile u, linear between the table's points."""
    for (low, below), (high, above) in zip(table, table[1:]):
        if u <= high:
            return round(below + (above - below) * (u - low) / (high - low))
    return table[-1][1]


def sharegpt(requests, seed):
    """One length from each of `requests` equal slices of the distribution, so that a few dozen stand for all."""
    rng = random.Random(seed)
    prompts = [sample(SHAREGPT_PROMPT, (i + rng.random()) / requests) for i in range(requests)]
    answers = [sample(SHAREGPT_ANSWER, (i + rng.random()) / requests) for i in range(requests)]
    rng.shuffle(prompts)
    rng.shuffle(answers)
    prompts = [min(length, SHAREGPT_TOTAL_MAX - answer) for length, answer in zip(prompts, answers)]
    return [prompt(rng, length) for length in prompts], answers


def all_workloads():
    rng = random.Random(20261123)
    single = lambda name, title, unit, tokens, answer: Workload(
        name, title, unit, [prompt(rng, tokens)], [answer], 1)
    batch = lambda count: Workload(
        f"batch{count}", f"{count} at once, 64 in, 128 out", "tok/s",
        [prompt(rng, 64) for _ in range(count)], [128] * count, count)
    chat_prompts, chat_answers = sharegpt(24, 7)
    return [
        single("ttft512", "time to first token, prompt of 512", "s", 512, 1),
        single("ttft2048", "time to first token, prompt of 2048", "s", 2048, 1),
        single("decode64", "decode alone, context 64", "tok/s", 64, 64),
        single("decode1024", "decode alone, context 1024", "tok/s", 1024, 64),
        batch(16),
        batch(64),
        Workload("sharegpt", "ShareGPT-like lengths, 16 at a time", "tok/s", chat_prompts, chat_answers, 16),
    ]


# Before each measurement of an engine that was stopped, untimed: a machine may have taken its memory away meanwhile.
WAKE = {"prompts": [[1000 + 7 * i for i in range(512)]], "max_tokens": [2], "concurrency": 1}
WARM_UP = {"prompts": [[1000, 2000, 3000, 4000]], "max_tokens": [8], "concurrency": 1}
