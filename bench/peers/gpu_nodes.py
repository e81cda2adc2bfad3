#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A model on two GPUs, its ranks as threads of one process and as two processes of one GPU each, in turn.

Usage: gpu_nodes.py SPILLWAY BENCH_ENGINE MODEL [--rounds 2]

MODEL is a small one with real weights: its answers must be the same either way. Then a 7B shape with random weights: the time
between tokens of 1, 32 and 128 answers (128 tokens in, 200 out). Then processes are killed in mid-answer: how long until
the request has failed, and with which words. Prints one JSON line a figure.
"""

import argparse
import http.client
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

from gpu_serving import LLAMA_7B, prompt

BATCHES = (1, 32, 128)
RANKS = ["--tensor-parallel-size", "2"]


def say(figure, **values):
    print(json.dumps({"figure": figure, **values}), flush=True)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


def on_gpu(index):
    return {**os.environ, "CUDA_VISIBLE_DEVICES": str(index)}


def wait_for_end(process, seconds):
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        return "still running"


class Nodes:
    """A program as node 0 on the first GPU and a worker on the second, or as one process that has both."""

    def __init__(self, spillway, model, command, two, **pipes):
        port = free_port()
        self.worker = None
        if two:
            self.worker = subprocess.Popen([spillway, "worker", model, "--node-rank", "1", "--master-port", port,
                                            "--nodes-timeout", "60"], env=on_gpu(1), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            command = [*command, "--nnodes", "2", "--master-port", port]
        self.leader = subprocess.Popen([*command, *RANKS], env=on_gpu(0) if two else None, stdout=subprocess.PIPE, text=True,
                                       bufsize=1, **pipes)

    def end(self):
        code = wait_for_end(self.leader, 60)
        worker = (wait_for_end(self.worker, 30), self.worker.stderr.read().strip()) if self.worker else None
        return code, worker


def answers(spillway, model, two):
    rng = random.Random(7)
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        for i in range(12):
            ids = [rng.randrange(3, 120) for _ in range(5 + 9 * i)]
            file.write(json.dumps({"prompt_token_ids": ids, "temperature": 0.0 if i % 2 else 0.8, "seed": i, "max_tokens": 24,
                                   "repetition_penalty": 1.2 if i % 3 == 0 else 1.0, "ignore_eos": True}) + "\n")
        file.flush()
        nodes = Nodes(spillway, model, [spillway, "generate", model, "--device", "cuda", "--prompts", file.name, "--json"], two)
        lines = [json.loads(line)["token_ids"] for line in nodes.leader.stdout]
        return lines, nodes.end()


def decode(spillway, bench_engine, model, two):
    command = [bench_engine, "--serve", model, "--device", "cuda", "--load-format", "dummy", "--max-num-seqs", "256",
               "--max-num-batched-tokens", "2048", "--max-model-len", "4096"]
    begin = time.monotonic()
    nodes = Nodes(spillway, model, command, two, stdin=subprocess.PIPE)
    nodes.leader.stdout.readline()
    start = time.monotonic() - begin

    def run(batch, tokens):
        rng = random.Random(batch)
        job = {"prompts": [prompt(rng, 128) for _ in range(batch)], "max_tokens": [tokens] * batch, "concurrency": batch}
        nodes.leader.stdin.write(json.dumps(job) + "\n")
        return json.loads(nodes.leader.stdout.readline())

    figures = {}
    for batch in BATCHES:
        run(batch, 20)
        report = run(batch, 200)
        figures[batch] = statistics.median(1e3 * (last - first) / (count - 1)
                                           for first, last, count in zip(report["first"], report["last"], report["tokens"]))
    nodes.leader.stdin.close()
    say("decode", processes=2 if two else 1, start_s=round(start, 2), tpot_ms={b: round(ms, 3) for b, ms in figures.items()},
        ended=nodes.end())


def ask(port, method, path, body=None, timeout=20):
    """Status and text; what came before it broke off, and how it did."""
    text, status = "", None
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(method, path, json.dumps(body) if body else None, {"Content-Type": "application/json"})
        response = connection.getresponse()
        status = response.status
        while piece := response.read1(65536):
            text += piece.decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        text += f"[{type(error).__name__}: {error}]"
    return status, text


def kill(spillway, model, who, idle):
    command = [spillway, "serve", model, "--device", "cuda", "--load-format", "dummy", "--port", "0", "--drain-timeout", "1",
               "--max-model-len", "4096"]
    nodes = Nodes(spillway, model, command, True)
    port = int(nodes.leader.stdout.readline().rsplit(":", 1)[1])
    body = {"model": os.path.basename(model), "prompt": list(range(100, 200)), "max_tokens": 3500, "temperature": 0,
            "ignore_eos": True, "stream": True}
    killed = nodes.worker if who == "worker" else nodes.leader
    at = []

    def shoot():
        killed.send_signal(signal.SIGKILL)
        at.append(time.monotonic())

    if idle:
        shoot()
        time.sleep(0.5)
    else:
        threading.Timer(1.5, shoot).start()
    status, text = ask(port, "POST", "/v1/completions", body)
    failed_s = round(time.monotonic() - at[0], 2)
    if who == "leader":
        code = wait_for_end(nodes.worker, 20)
        return say("leader killed", worker_ended_s=round(time.monotonic() - at[0], 2), worker_code=code,
                   worker_says=nodes.worker.stderr.read().strip())
    again = ask(port, "POST", "/v1/completions", {**body, "stream": False})
    health = ask(port, "GET", "/health", timeout=5)
    begin = time.monotonic()
    nodes.leader.send_signal(signal.SIGTERM)
    code = wait_for_end(nodes.leader, 20)
    return say("worker killed", idle=idle, status=status, chunks=text.count("data:"), failed_after_s=failed_s,
               last=text.strip()[-300:], next=again, health=health, server_code=code, server_end_s=round(time.monotonic() - begin, 2))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spillway")
    parser.add_argument("bench_engine")
    parser.add_argument("model")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    one, ended_one = answers(options.spillway, options.model, False)
    other, ended_other = answers(options.spillway, options.model, True)
    same = one == other and len(one) == 12
    say("answers", requests=len(one), tokens=sum(map(len, one)), same=same, ended=[ended_one, ended_other])
    with tempfile.TemporaryDirectory() as folder:
        model = os.path.join(folder, "llama-7b")
        os.mkdir(model)
        with open(os.path.join(model, "config.json"), "w", encoding="utf-8") as file:
            json.dump(LLAMA_7B, file)
        for who, idle in (("worker", False), ("leader", False), ("worker", True)):
            kill(options.spillway, model, who, idle)
        for _ in range(options.rounds):
            for two in (False, True):
                decode(options.spillway, options.bench_engine, model, two)
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
