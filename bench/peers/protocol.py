# SPDX-License-Identifier: Apache-2.0
"""The protocol between compare.py and an engine's driver: JSON lines over stdin and stdout.

    driver -> {"ready": true, "engine": "...", "version": "...", "settings": {...}}
    compare -> {"prompts": [[token id, ...], ...], "max_tokens": [n, ...], "concurrency": k}
    driver -> {"seconds": s, "first": [s, ...], "last": [s, ...], "tokens": [n, ...], "gaps_ms": [p50, p99],
               "rss_peak_mb": m}
    compare closes stdin -> driver ends

A job's requests are taken in order, at most `concurrency` at a time, greedily decoded to exactly max_tokens tokens each
(end tokens ignored), and nothing is reused between jobs: no prefix cache, no kept KV. "first" and "last" are the times
of a request's first and last token since its own start, which is the job's start or the moment its slot came free.
"""

import json
import os
import sys
import time


class Job:
    """Hands out requests and notes when each token came; an engine's driver only fills it."""

    def __init__(self, request):
        self.prompts = request["prompts"]
        self.max_tokens = request["max_tokens"]
        self.concurrency = request["concurrency"]
        self.next = 0
        self.running = set()
        self.began = {}
        self.times = {}

    def start(self):
        """Call when everything that an engine sets up before its first request is done."""
        self.origin = time.perf_counter()

    def admit(self):
        """Yields (index, prompt, tokens wanted) while slots are free and requests are left."""
        while self.next < len(self.prompts) and len(self.running) < self.concurrency:
            index = self.next
            self.next += 1
            self.running.add(index)
            self.began[index], self.times[index] = time.perf_counter(), []
            yield index, self.prompts[index], self.max_tokens[index]

    def token(self, index, count=1):
        """Notes `count` new tokens of a request; True when that was its last."""
        self.times[index] += [time.perf_counter()] * count
        if len(self.times[index]) < self.max_tokens[index]:
            return False
        self.running.discard(index)
        return True

    def done(self):
        return self.next == len(self.prompts) and not self.running

    def report(self):
        order = sorted(self.times)
        gaps = sorted(
            1000 * (after - before) for times in self.times.values() for before, after in zip(times, times[1:]))
        quantile = lambda q: round(gaps[min(len(gaps) - 1, int(q * len(gaps)))], 3) if gaps else None
        return {
            "seconds": max(times[-1] for times in self.times.values()) - self.origin,
            "first": [self.times[index][0] - self.began[index] for index in order],
            "last": [self.times[index][-1] - self.began[index] for index in order],
            "tokens": [len(self.times[index]) for index in order],
            "gaps_ms": [quantile(0.5), quantile(0.99)],
        }


def reset_rss_peak():
    """Lets the kernel's high-water mark start anew, so that each job has a peak of its own."""
    for pid in ["self", *children(os.getpid())]:
        with open(f"/proc/{pid}/clear_refs", "w", encoding="ascii") as control:
            control.write("5")


def rss_peak_mb():
    """Peak resident memory of this process and of the children it still has, in MB (10^6 bytes)."""
    total_kib = 0
    for pid in [str(os.getpid()), *children(os.getpid())]:
        try:
            with open(f"/proc/{pid}/status", encoding="ascii") as status:
                total_kib += sum(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
        except OSError:
            pass
    return round(total_kib * 1024 / 1e6, 1)


def children(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as listing:
            direct = listing.read().split()
    except OSError:
        return []
    return direct + [grandchild for child in direct for grandchild in children(int(child))]


def serve(open_engine):
    """Runs a driver: open_engine() gives an object with name, version, settings and run(job). Engines print what they
    like, while they load too; it goes to stderr, so that stdout carries the protocol alone."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(message):
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    engine = open_engine()
    answer({"ready": True, "engine": engine.name, "version": engine.version, "settings": engine.settings})
    for line in sys.stdin:
        job = Job(json.loads(line))
        reset_rss_peak()
        engine.run(job)
        answer({**job.report(), "rss_peak_mb": rss_peak_mb()})
