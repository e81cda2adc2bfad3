#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Passes a bench's output on: with --json its JSON lines alone, each with commit, CPU and command; else for reading.

Usage: BENCH [ARGUMENT...] | bench_lines.py [--json] BENCH [ARGUMENT...]
"""

import json
import subprocess
import sys


def cpu_name():
    with open("/proc/cpuinfo", encoding="ascii") as info:
        return next((line.split(":", 1)[1].strip() for line in info if line.startswith("model name")), "unknown")


def commit():
    try:
        answer = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=12"], capture_output=True, text=True)
        return answer.stdout.strip() or "unknown"
    except FileNotFoundError:  # no git on this machine
        return "unknown"


def readable(value):
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value)


def main():
    arguments = sys.argv[1:]
    as_json = arguments[:1] == ["--json"]
    command = arguments[1:] if as_json else arguments
    about = {"commit": commit(), "cpu": cpu_name(), "command": " ".join(command)}
    if not as_json:
        print(f"== {about['command']}  ({about['cpu']}, commit {about['commit']})")
    for line in sys.stdin:
        try:
            figures = json.loads(line)
        except json.JSONDecodeError:
            figures = None
        if not isinstance(figures, dict):
            print(line, end="", file=sys.stderr if as_json else sys.stdout)
        elif as_json:
            print(json.dumps(about | figures), flush=True)
        else:
            print("  ".join(f"{name}={readable(value)}" for name, value in figures.items()), flush=True)


if __name__ == "__main__":
    main()
