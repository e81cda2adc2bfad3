#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""KV sparsification as one command: `./dev bench sparse [OPTION...]`.

    run.py [--part serving|perplexity|needle] [--json] [--plots DIR] [--save FILE] [OPTION OF THE PART...]

Without OPTIONs and --part it runs all three parts, in a few minutes: the SpvLLM paper's load on the simulated device (its clock, not
this machine's), on the exact engine and on every strategy and budget; then perplexity and needles, small samples on the host device.
An OPTION is bench_sparse's (--model --device --dataset --methods --strategies --granularities --budgets --num-prompts
--kv-cache-memory-mib ...) or, with --part perplexity or needle, bench_sparse_quality's; it runs that part alone.
Prints tables, or with --json one object a line; --save appends those to FILE, --plots draws them (build/sparse-plots unless given).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import paper
import plots

SERVING = ["method", "strategy", "granularity", "budget", "frag_p99", "frag_mean", "req_per_s", "tok_per_s", "ttft_p50_ms", "tpot_p50_ms",
           "itl_p99_ms", "preemptions", "slots_reused", "blocks_copied", "speed_up", "bound", "bound_ratio"]
QUALITY = ["method", "granularity", "percent", "budget", "perplexity", "agreement"]
NEEDLE = ["method", "granularity", "percent", "budget", "found", "trials"]

# The paper's requests, 40 open at a time, over memory for some 17 of them; a step's time as measured of a 7B model on an H100, but for
# the KV that it reads: what a batch takes does not grow with it.
PAPER_LOAD = ["--model", "opt-125m", "--device", "sim", "--num-prompts", "1000", "--max-concurrency", "40", "--max-num-seqs", "64",
              "--kv-cache-memory-mib", "360", "--max-num-batched-tokens", "2048", "--max-itl-stretch", "1.4", "--step-us", "6000",
              "--prompt-token-us", "25"]
SMALL_PERPLEXITY = ["--task", "perplexity", "--context", "1024", "--prompt", "768", "--windows", "1", "--granularities", "head,token",
                    "--percents", "50,25,12"]
SMALL_NEEDLE = ["--task", "needle", "--context", "512", "--prompt", "256", "--depths", "3", "--needles", "1", "--methods",
                "h2o,snapkv,tova", "--granularities", "head,token", "--percents", "50,25"]


def lines_of(command):
    """The JSON objects that the program prints, with commit, CPU and command."""
    about = [sys.executable, "scripts/bench_lines.py", "--json", *command]
    program = subprocess.Popen(command, stdout=subprocess.PIPE)
    reader = subprocess.Popen(about, stdin=program.stdout, stdout=subprocess.PIPE, text=True)
    program.stdout.close()
    for line in reader.stdout:
        yield json.loads(line)
    if program.wait() != 0 or reader.wait() != 0:
        sys.exit(f"{command[0]} failed")


def short(value):
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3g}" if value < 100 else f"{value:.0f}"
    return str(value)


def print_table(rows, columns):
    cells = [columns] + [[short(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    for line in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths)))
    print()


def serving(options):
    with tempfile.TemporaryDirectory() as scratch:
        iterations = os.path.join(scratch, "iterations")
        rows = list(lines_of(["build/bench/bench_sparse", *options, "--iterations", iterations]))
        with open(iterations, encoding="utf-8") as file:
            steps = [json.loads(line) for line in file]
    return rows, steps


def print_serving(rows):
    shown = [row | {"paper_frag_p99": paper.fragmentation(row), "paper_req_per_s": paper.requests_per_s(row)} for row in rows]
    print_table(shown, SERVING + ["paper_frag_p99", "paper_req_per_s"])
    if rows[0]["device"] == "sim":
        print("Seconds are the simulated device's.")
    print("frag_*: 1 - live / slots of held blocks, over steps; bound_ratio: speed-up in requests/s over the exact engine, divided by\n"
          f"(mean slots a request holds, exact / sparsified). The paper (one T4, opt-125m, ShareGPT, h2o): {paper.HEADLINES}\n")


def needles(rows):
    """One row a configuration, all depths together."""
    sums = {}
    for row in rows:
        key = (row["method"], row["granularity"], row["percent"])
        if key not in sums:
            sums[key] = row | {"found": 0, "trials": 0}
        sums[key]["found"] += row["found"]
        sums[key]["trials"] += row["trials"]
    return list(sums.values())


def run_part(part, options):
    print(f"== {part}", file=sys.stderr)
    if part == "serving":
        return serving(options)
    return list(lines_of(["build/bench/bench_sparse_quality", *options])), []


def print_part(part, rows):
    if part == "serving":
        print_serving(rows)
    elif part == "perplexity":
        print_table(rows, QUALITY)
    else:
        print_table(needles(rows), NEEDLE)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["serving", "perplexity", "needle"])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--plots", metavar="DIR", default="build/sparse-plots")
    parser.add_argument("--save", metavar="FILE")
    options, rest = parser.parse_known_args()
    if rest or options.part:
        part = options.part or "serving"
        small = {"serving": PAPER_LOAD, "perplexity": SMALL_PERPLEXITY, "needle": SMALL_NEEDLE}[part]
        task = [] if part == "serving" else ["--task", part]
        parts = {part: task + rest if rest else small}
    else:
        parts = {"serving": PAPER_LOAD, "perplexity": SMALL_PERPLEXITY, "needle": SMALL_NEEDLE}
    for part, arguments in parts.items():
        rows, steps = run_part(part, arguments)
        text = "".join(json.dumps(row) + "\n" for row in rows)
        if options.json:
            print(text, end="", flush=True)
        else:
            print_part(part, rows)
        if options.save:
            with open(options.save, "a", encoding="utf-8") as file:
                file.write(text)
        for path in plots.draw(options.plots, rows, steps):
            print(f"drawn: {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
