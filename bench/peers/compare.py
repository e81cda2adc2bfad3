#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Spillway beside llama.cpp, OpenVINO GenAI and vLLM CPU: the same jobs in turn, round after round, on one machine.

Usage: ./dev bench peers [--rounds N] [--engine NAME]... [--workload NAME]... [--peers DIR] [--threads N] [--json]

Each engine loads once, in a process of its own that is stopped (SIGSTOP) while another one measures, and answers a
prompt of 512 tokens, untimed, before each measurement. Every round runs every workload on every engine before the next
round begins, so that a slow spell of the machine hits all of them. The table shows medians over the rounds and ours
divided by the best peer's on that line (above 1: ours is better). The raw figures go to bench/results/.
bench/peers/install.sh makes the peers' environments in DIR.
"""

import argparse
import contextlib
import datetime
import json
import os
import pathlib
import platform
import shlex
import signal
import statistics
import subprocess
import sys
import time

import workloads

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
MODEL = ROOT / "models/SmolLM2-135M-Instruct.Q4_1.gguf"


def engines(options):
    """Name -> (command, environment), ours first."""
    peers, threads = pathlib.Path(options.peers), str(options.threads)
    python = lambda name: str(peers / f"venv-{name}/bin/python")
    driver = lambda name: str(HERE / f"driver_{name}.py")
    preload = [str(peers / "venv-vllm/lib/libiomp5.so"), "/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4"]
    preload = ":".join(path for path in preload if os.path.exists(path))
    return {
        "spillway": ([sys.executable, driver("spillway"), str(MODEL), threads, *options.spillway], {}),
        "llamacpp-f16": ([python("llamacpp"), driver("llamacpp"), str(MODEL), threads, "f16"], {}),
        "llamacpp-q8_0": ([python("llamacpp"), driver("llamacpp"), str(MODEL), threads, "q8_0"], {}),
        "openvino": ([python("openvino"), driver("openvino"), str(MODEL), threads, "default"], {}),
        "openvino-f32": ([python("openvino"), driver("openvino"), str(MODEL), threads, "f32"], {}),
        "vllm": ([python("vllm"), driver("vllm"), str(peers / "smollm2-bf16"), threads], {"LD_PRELOAD": preload}),
    }


class Driver:
    """One engine's process: answers one job at a time and sleeps in between."""

    def __init__(self, name, command, environment, log_folder):
        self.name = name
        self.log = open(log_folder / f"{name}.log", "w", encoding="utf-8")
        began = time.perf_counter()
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True, bufsize=1, cwd=HERE,
            env={**os.environ, **environment}, start_new_session=True)
        try:
            self.about = self.read()
            self.load_s = time.perf_counter() - began
            self.first_token_s = self.load_s + self.ask(workloads.WARM_UP)["first"][0]
        except BaseException:
            self.close()
            raise

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with status {self.process.wait()}; see {self.log.name}")
        return json.loads(line)

    def ask(self, job):
        os.killpg(self.process.pid, signal.SIGCONT)
        self.process.stdin.write(json.dumps(job) + "\n")
        answer = self.read()
        os.killpg(self.process.pid, signal.SIGSTOP)
        return answer

    def close(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()


class Quiet:
    """Keeps a command of the user's around the measurements, such as one that pauses a shared machine's other work: it
    is started with a shell line that waits, and ended between two measurements once it has run for slice_s."""

    def __init__(self, around, slice_s):
        self.around, self.slice_s, self.process = shlex.split(around), slice_s, None

    def __enter__(self):
        if self.process and self.process.poll() is not None:  # it has a time limit of its own, and that is over
            self.release()
        if self.around and not self.process:
            self.process = subprocess.Popen(
                [*self.around, "sh", "-c", "echo inside; read line"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            self.process.stdout.readline()
            self.since = time.monotonic()

    def __exit__(self, *_):
        if self.process and time.monotonic() - self.since > self.slice_s:
            self.release()

    def release(self):
        if self.process:
            self.process.communicate()
            self.process = None


def cpu_name():
    with open("/proc/cpuinfo", encoding="ascii") as info:
        for line in info:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


def cpu_features():
    with open("/proc/cpuinfo", encoding="ascii") as info:
        flags = next((line.split() for line in info if line.startswith("flags")), [])
    return [flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16") if flag in flags]


def commit():
    answer = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return answer.stdout.strip() or "unknown"


def measure(options, quiet, drivers, chosen):
    """workload -> engine -> list of driver answers, one a round; what there is so far when it is interrupted."""
    results = {workload.name: {name: [] for name in drivers} for workload in chosen}
    try:
        for round_index in range(options.rounds):
            for workload in chosen:
                for name in list(drivers):
                    with quiet:
                        answer = ask(drivers, name, workload)
                    if answer:
                        results[workload.name][name].append(answer)
                        print(f"round {round_index + 1} {workload.name} {name}: {answer['value']:.4g} {workload.unit}, "
                              f"peak {answer['rss_peak_mb']:.0f} MB", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        print("interrupted; what was measured until now counts", file=sys.stderr)
    return results


def ask(drivers, name, workload):
    """The engine's answer, or None: an engine that fails is out for the rest of the run."""
    try:
        drivers[name].ask(workloads.WAKE)
        answer = drivers[name].ask(workload.job())
    except (RuntimeError, OSError) as error:
        print(f"{name} dropped out of {workload.name}: {error}", file=sys.stderr)
        drivers.pop(name).close()
        return None
    return {**answer, "value": workload.value(answer)}


def lines_of(results, chosen, about):
    """The table: (title, unit, engine -> median, ours against the best peer, that peer)."""
    for workload in chosen:
        medians = {name: statistics.median(answer["value"] for answer in answers)
                   for name, answers in results[workload.name].items() if answers}
        if not medians:
            continue
        yield (workload.title, workload.unit, medians, *against_best(medians, workload.unit == "s"))
    for name in ("batch16", "sharegpt"):
        if any(results.get(name, {}).values()):
            peaks = {engine: max(answer["rss_peak_mb"] for answer in answers)
                     for engine, answers in results[name].items() if answers}
            title = next(workload.title for workload in chosen if workload.name == name)
            yield ("peak memory, " + title, "MB", peaks, *against_best(peaks, True))
    starts = {name: facts["first_token_s"] for name, facts in about.items()}
    yield ("process start to first token", "s", starts, *against_best(starts, True))


def against_best(medians, less_is_better):
    others = {name: value for name, value in medians.items() if name != "spillway"}
    if not others or "spillway" not in medians:
        return None, None
    best = (min if less_is_better else max)(others, key=others.get)
    ratio = medians["spillway"] / others[best]
    return (1 / ratio if less_is_better else ratio), best


def table(lines, names):
    rows = [["", *names, "ours / best peer"]]
    for title, unit, medians, ratio, best in lines:
        cells = [f"{medians[name]:.3g}" if name in medians and medians[name] < 100
                 else f"{medians[name]:.0f}" if name in medians else "-" for name in names]
        rows.append([f"{title}, {unit}", *cells, f"{ratio:.2f}x ({best})" if ratio else "-"])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    out = []
    for index, row in enumerate(rows):
        out.append("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |")
        if index == 0:
            out.append("|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(out)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--engine", action="append", help="only this one (repeatable)")
    parser.add_argument("--workload", action="append", help="only this one (repeatable)")
    parser.add_argument("--peers", default=os.path.expanduser("~/.cache/spillway-peers"), help="made by install.sh")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--around", default="", metavar="COMMAND", help="run measurements inside this command")
    parser.add_argument("--slice", type=float, default=30, metavar="S", help="leave it between two after S seconds")
    parser.add_argument("--output", help="JSON file (default: bench/results/peers-<cpu>.json)")
    parser.add_argument("--json", action="store_true", help="print the JSON instead of the table")
    parser.add_argument("--spillway", action="append", default=[], metavar="OPTION", help="passed on to our driver")
    return parser.parse_args()


def main():
    options = arguments()
    chosen = [workload for workload in workloads.all_workloads()
              if not options.workload or workload.name in options.workload]
    known = engines(options)
    wrong = set(options.engine or []) - set(known)
    if wrong or not chosen:
        sys.exit(f"engines: {' '.join(known)}\nworkloads: {' '.join(w.name for w in workloads.all_workloads())}")

    slug = "-".join(cpu_name().lower().replace("(r)", "").replace("(tm)", "").split()[:4])
    output = pathlib.Path(options.output or ROOT / f"bench/results/peers-{slug}.json")
    output.parent.mkdir(parents=True, exist_ok=True)
    logs = ROOT / "build"
    logs.mkdir(exist_ok=True)

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the drivers are ended, and the figures kept
    quiet, drivers, about = Quiet(options.around, options.slice), {}, {}
    try:
        for name, (command, environment) in known.items():
            if options.engine and name not in options.engine:
                continue
            if not os.path.exists(command[0]):
                print(f"{name} left out: no {command[0]} (see bench/peers/install.sh)", file=sys.stderr)
                continue
            try:
                with quiet:
                    driver = Driver(name, command, environment, logs)
            except (RuntimeError, OSError) as error:
                print(f"{name} left out: {error}", file=sys.stderr)
                continue
            drivers[name] = driver
            about[name] = {"version": driver.about["version"], "settings": driver.about["settings"],
                           "load_s": round(driver.load_s, 3), "first_token_s": round(driver.first_token_s, 3)}
        names = list(drivers)
        results = measure(options, quiet, drivers, chosen)
    finally:
        quiet.release()
        for driver in drivers.values():
            driver.close()

    lines = list(lines_of(results, chosen, about))
    record = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "cpu": cpu_name(), "cpu_features": cpu_features(), "cores": os.cpu_count(), "threads": options.threads,
        "commit": commit(), "command": " ".join(["bench/peers/compare.py", *sys.argv[1:]]), "rounds": options.rounds,
        "model": MODEL.name, "engines": about,
        "medians": [{"line": title, "unit": unit, **medians, "ours_over_best": ratio, "best": best}
                    for title, unit, medians, ratio, best in lines],
        "raw": {workload: {name: [{"value": answer["value"], "gaps_ms": answer["gaps_ms"],
                                   "rss_peak_mb": answer["rss_peak_mb"]} for answer in answers]
                           for name, answers in by_engine.items()} for workload, by_engine in results.items()},
    }
    output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(record) if options.json else table(lines, names))
    print(f"raw figures: {output}", file=sys.stderr)


if __name__ == "__main__":
    main()
