#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`spillway serve` beside llama.cpp's server: the same requests by `spillway bench serve`, on one machine.

Usage: bench/peers/servers.py --llama-server PROGRAM [--model GGUF] [--concurrency 1,4,16,64] [--prompts-per-stream N]
                              [--rounds N] [--around COMMAND] [--output FILE]

Both servers run all the time; the one that is not measured is stopped (SIGSTOP). Prompts and answers have ShareGPT-like
lengths (`--dataset-name lengths --lengths sharegpt`), prompts cut at 1,000 tokens and answers at 300 so that 64 of them
fit llama.cpp's slots; answers do not end early. Every run has prompts of its own (same for both servers), so that no
prefix cache knows them. Prints a table, medians over the rounds, and writes JSON to bench/results/.
"""

import argparse
import datetime
import itertools
import json
import pathlib
import signal
import socket
import statistics
import subprocess
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
SPILLWAY = ROOT / "build/cli/spillway"
INPUT_MAX, OUTPUT_MAX = 1000, 300
FIGURES = ["completed", "failed", "duration", "total_output_tokens", "output_throughput", "p50_ttft_ms", "p99_ttft_ms",
           "p50_itl_ms", "p99_itl_ms"]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Server:
    def __init__(self, name, command, port):
        self.name, self.port = name, port
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
                    if answer.status == 200:
                        return
            except OSError:
                if self.process.poll() is not None:
                    self.log.seek(0)
                    raise SystemExit(f"{name} ended: {self.log.read()[-2000:].decode(errors='replace')}")
                time.sleep(0.2)
        raise SystemExit(f"{name} did not become healthy")

    def signal(self, number):
        self.process.send_signal(number)


def measure(server, model, concurrency, prompts, seed, around):
    with tempfile.NamedTemporaryFile(suffix=".json") as result:
        command = around + [
            str(SPILLWAY), "bench", "serve", "--port", str(server.port), "--backend", "openai", "--dataset-name", "lengths",
            "--lengths", "sharegpt", "--input-len-max", str(INPUT_MAX), "--output-len-max", str(OUTPUT_MAX),
            "--num-prompts", str(prompts), "--max-concurrency", str(concurrency), "--temperature", "0", "--seed", str(seed),
            "--metric-percentiles", "50,99", "--no-live", "--save-result", "--result-filename", result.name,
            "--tokenizer", str(model)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        figures = json.load(open(result.name))
    return {"server": server.name, "concurrency": concurrency, "seed": seed, **{key: figures[key] for key in FIGURES}}


def print_table(rows, levels):
    print("| at once | server | tok/s | TTFT p50 / p99, ms | ITL p50 / p99, ms | ours / theirs |")
    print("|---|---|---|---|---|---|")
    for level in levels:
        medians = {}
        for row in rows:
            if row["concurrency"] == level:
                medians.setdefault(row["server"], []).append(row)
        for name, runs in medians.items():
            medians[name] = {key: statistics.median(run[key] for run in runs) for key in FIGURES}
        for name, figures in medians.items():
            ratio = f"{figures['output_throughput'] / medians['llama-server']['output_throughput']:.2f}x"
            print(f"| {level} | {name} | {figures['output_throughput']:.0f} | "
                  f"{figures['p50_ttft_ms']:.0f} / {figures['p99_ttft_ms']:.0f} | "
                  f"{figures['p50_itl_ms']:.1f} / {figures['p99_itl_ms']:.1f} | {ratio if name == 'spillway' else ''} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-server", required=True)
    parser.add_argument("--model", default=ROOT / "models/SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--concurrency", default="1,4,16,64")
    parser.add_argument("--prompts-per-stream", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--around", default="")
    parser.add_argument("--output", default=ROOT / "bench/results/servers.json")
    arguments = parser.parse_args()
    levels = [int(level) for level in arguments.concurrency.split(",")]
    slots = max(levels)
    ours, theirs = free_port(), free_port()
    servers = [
        Server("spillway", [str(SPILLWAY), "serve", str(arguments.model), "--port", str(ours), "--threads",
                            str(arguments.threads)], ours),
        Server("llama-server", [arguments.llama_server, "-m", str(arguments.model), "--port", str(theirs), "--parallel",
                                str(slots), "--cont-batching", "-t", str(arguments.threads), "-tb", str(arguments.threads),
                                "-c", str(slots * 1536), "--cache-ram", "0", "-fa", "on", "-ctk", "q8_0", "-ctv",
                                "q8_0"], theirs)]
    rows = []
    try:
        for server in servers:
            server.signal(signal.SIGSTOP)
        for round_number, level in itertools.product(range(arguments.rounds), levels):
            for server in servers:
                server.signal(signal.SIGCONT)
                rows.append(measure(server, arguments.model, level, max(level * arguments.prompts_per_stream, 8),
                                    1000 * round_number + level, arguments.around.split()))
                server.signal(signal.SIGSTOP)
                print(json.dumps(rows[-1]), flush=True)
    finally:
        for server in servers:
            server.signal(signal.SIGCONT)
            server.process.terminate()
            server.process.wait()
    commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    cpu = next(line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name"))
    pathlib.Path(arguments.output).write_text(json.dumps({
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"), "cpu": cpu,
        "threads": arguments.threads, "commit": commit.stdout.strip(), "model": pathlib.Path(arguments.model).name,
        "command": "bench/peers/servers.py --llama-server PROGRAM", "rows": rows}, indent=1) + "\n")
    print_table(rows, levels)


if __name__ == "__main__":
    main()
