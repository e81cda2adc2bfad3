#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""KV sparsification as one command: `./dev bench sparse [OPTION...]`.

    run.py [--json] [--quality] [--plots DIR] [--save FILE] [OPTION OF bench_sparse OR bench_sparse_quality...]

Without --quality: a memory-bound load on the exact engine and on each configuration (bench_sparse's options: --model
--device --dataset --methods --strategies --granularities --budgets --num-prompts --kv-cache-memory-mib ...). With it:
perplexity, agreement and needles (bench_sparse_quality's). Prints a table, or with --json one object a line; --save
appends those to FILE, --plots draws them.
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

COLUMNS = ["method", "strategy", "granularity", "budget", "frag_p99", "frag_mean", "req_per_s", "tok_per_s", "ttft_p50_ms",
           "tpot_p50_ms", "itl_p99_ms", "preemptions", "slots_reused", "blocks_copied", "bound_ratio"]


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


def serving(options):
    with tempfile.TemporaryDirectory() as scratch:
        iterations = os.path.join(scratch, "iterations")
        rows = list(lines_of(["build/bench/bench_sparse", *options.rest, "--iterations", iterations]))
        with open(iterations, encoding="utf-8") as file:
            steps = [json.loads(line) for line in file]
    if not options.json:
        print_table([row | {"paper": paper.fragmentation(row)} for row in rows], COLUMNS + ["paper"])
        print("\nfrag_*: 1 - live / slots of held blocks, over steps; bound_ratio: speed-up in requests/s over the exact engine,\n"
              "divided by (mean slots a request holds, exact / sparsified). paper: its p99 fragmentation at this budget\n"
              "(one T4, opt-125m, ShareGPT, h2o); its headlines: " + paper.HEADLINES)
    return rows, steps


def quality(options):
    rows = list(lines_of(["build/bench/bench_sparse_quality", *options.rest]))
    if not options.json:
        print_table(rows, ["method", "granularity", "percent", "budget", "perplexity", "agreement", "depth", "found", "trials"])
    return rows, []


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quality", action="store_true")
    parser.add_argument("--plots", metavar="DIR")
    parser.add_argument("--save", metavar="FILE")
    options, options.rest = parser.parse_known_args()
    rows, steps = quality(options) if options.quality else serving(options)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if options.json:
        print(text, end="")
    if options.save:
        with open(options.save, "a", encoding="utf-8") as file:
            file.write(text)
    if options.plots:
        for path in plots.draw(options.plots, rows, steps):
            print(f"drawn: {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
