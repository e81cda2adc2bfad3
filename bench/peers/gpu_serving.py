#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The engine on one GPU under the loads that vLLM was measured with: a 7B shape with random weights, all requests at once.

Usage: gpu_serving.py BENCH_ENGINE [--requests 16,128,256] [OPTION...]      other OPTIONs go to bench_engine

Prompts have ShareGPT-like lengths with a mean of 236 tokens, answers 245 tokens. "arrival" is 32 requests of 128 tokens that
decode while a prompt of 2048 tokens takes the first free place. Prints one JSON line a load.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import tempfile

import workloads

LLAMA_7B = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 32000, "hidden_size": 4096,
    "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
    "hidden_act": "silu", "rms_norm_eps": 1e-5, "max_position_embeddings": 4096, "rope_theta": 10000.0,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2}
ANSWER = 245


def prompt(rng, tokens):
    return [rng.randrange(100, LLAMA_7B["vocab_size"]) for _ in range(tokens)]


def all_at_once(requests):
    rng = random.Random(requests)
    lengths = [workloads.sample(workloads.SHAREGPT_PROMPT, (i + rng.random()) / requests) for i in range(requests)]
    scale = 236 / statistics.mean(lengths)
    rng.shuffle(lengths)
    prompts = [prompt(rng, max(4, round(length * scale))) for length in lengths]
    return {"prompts": prompts, "max_tokens": [ANSWER] * requests, "concurrency": requests}


def arrival():
    rng = random.Random(33)
    prompts = [prompt(rng, 128) for _ in range(32)] + [prompt(rng, 2048)]
    return {"prompts": prompts, "max_tokens": [100] + [400] * 31 + [150], "concurrency": 32}


class Engine:
    def __init__(self, program, options):
        self.folder = tempfile.TemporaryDirectory()
        with open(os.path.join(self.folder.name, "config.json"), "w", encoding="utf-8") as file:
            json.dump(LLAMA_7B, file)
        command = [program, "--serve", self.folder.name, "--device", "cuda", "--load-format", "dummy", *options]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self.about = json.loads(self.process.stdout.readline())

    def ask(self, job):
        self.process.stdin.write(json.dumps(job) + "\n")
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.folder.cleanup()


def figures(name, report):
    tokens = sum(report["tokens"])
    tpot = [1e3 * (last - first) / (count - 1)
            for first, last, count in zip(report["first"], report["last"], report["tokens"]) if count > 1]
    return {"figure": name, "requests": len(report["tokens"]), "output_tokens": tokens,
            "seconds": round(report["seconds"], 3), "output_tok_s": round(tokens / report["seconds"], 1),
            "ttft_s": {"p50": round(statistics.median(report["first"]), 3), "max": round(max(report["first"]), 3)},
            "tpot_ms": {"p50": round(statistics.median(tpot), 2), "max": round(max(tpot), 2)},
            "itl_ms": {"p50": round(report["gaps_ms"][0], 2), "p99": round(report["gaps_ms"][1], 2),
                       "max": round(report["gap_max_ms"], 2)}}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--requests", default="16,128,256")
    options, others = parser.parse_known_args()
    engine = Engine(options.program, ["--max-num-seqs", "256", *others])
    print(json.dumps({"figure": "engine", **engine.about["settings"]}), flush=True)
    engine.ask(workloads.WARM_UP)
    for requests in map(int, options.requests.split(",")):
        print(json.dumps(figures("all_at_once", engine.ask(all_at_once(requests)))), flush=True)
    engine.close()
    engine = Engine(options.program, ["--max-num-seqs", "256", "--max-num-batched-tokens", "512", *others])
    engine.ask(workloads.WARM_UP)
    print(json.dumps(figures("arrival", engine.ask(arrival()))), flush=True)
    engine.close()


if __name__ == "__main__":
    main()
