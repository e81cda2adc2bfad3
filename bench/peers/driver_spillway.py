# SPDX-License-Identifier: Apache-2.0
"""Ours: build/bench/bench_engine speaks the protocol itself; this file only gives it the place of a driver.

Usage: driver_spillway.py MODEL.gguf THREADS [OPTION...]
"""

import os
import pathlib
import sys

program = pathlib.Path(__file__).resolve().parents[2] / "build/bench/bench_engine"
if not program.exists():
    sys.exit(f"no {program}; run ./dev build bench/bench_engine first")
os.execv(program, [str(program), "--serve", sys.argv[1], "--threads", sys.argv[2], *sys.argv[3:]])
