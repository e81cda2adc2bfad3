#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Builds the tests of a build directory, runs them, and counts test cases rather than executables.

Usage: run_tests.py --build DIR [--suite NAME]... [--match TEXT] [--sanitizer address|thread]

A test is one of two kinds. A Catch2 executable reports through Catch2's XML, one case for each TEST_CASE that ran; a
case that warns "skipped: ..." counts as skipped. Any other program speaks TAP ("ok 1 - name", "not ok 2 - name", "ok
3 - name # SKIP why"). An executable that crashes, hangs or fails without saying in which case adds a failure of its
own, and is named. The last line is always "N passed, N failed", with ", N skipped" where there were any; the exit
status is 1 when anything failed or nothing ran.
"""

import argparse
import concurrent.futures
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree

# Meson's own default of 30 s is meant for single cases; ours is a net for hangs only, so it is wide.
TIMEOUT_S = 900
SANITIZER_SLOWDOWN = 4


@dataclasses.dataclass
class Outcome:
    """What one executable did."""

    passed: int = 0
    skipped: int = 0
    failures: list = dataclasses.field(default_factory=list)  # (case, explanation)
    output: str = ""
    seconds: float = 0.0


def parse_catch(report_path):
    """Outcome of a Catch2 XML report, and where it breaks off: in which case, "" for between two, None if it is whole."""
    outcome = Outcome()
    parser = xml.etree.ElementTree.XMLPullParser(["start", "end"])
    running, lines, depth = None, [], 0
    with open(report_path, "rb") as report:
        parser.feed(report.read())
    events = []
    try:
        for event in parser.read_events():
            events.append(event)
    except xml.etree.ElementTree.ParseError:
        pass  # cut off by a crash; what came before it still counts
    for event, element in events:
        depth += 1 if event == "start" else -1
        if element.tag == "TestCase":
            if event == "start":
                running, lines = element.get("name"), []
                continue
            result = element.find("OverallResult")
            warnings = [warning.text or "" for warning in element.iter("Warning")]
            if result is None:
                continue  # broken off inside this case
            if result.get("success") != "true":
                outcome.failures.append((running, "\n".join(lines)))
            elif any(text.strip().lower().startswith("skipped") for text in warnings) or element.find(".//Skip") is not None:
                outcome.skipped += 1
            else:
                outcome.passed += 1
            running = None
        elif event == "end" and running is not None:
            lines.extend(explain(element))
    return outcome, running if running is not None or (events and depth == 0) else ""


def explain(element):
    """Lines for a person about a failed assertion."""
    place = f"{element.get('filename')}:{element.get('line')}"
    if element.tag == "Expression" and element.get("success") != "true":
        yield f"  {place}: {element.get('type')}( {(element.findtext('Original') or '').strip()} )"
        yield f"    with expansion: {(element.findtext('Expanded') or '').strip()}"
        for kind in ("Exception", "FatalErrorCondition"):
            for inner in element.iter(kind):
                yield f"    {kind}: {(inner.text or '').strip()}"
    elif element.tag in ("Failure", "Info", "Warning", "Exception", "FatalErrorCondition"):
        yield f"  {element.tag}: {(element.text or '').strip()}"


TAP_LINE = re.compile(r"^(ok|not ok)\b\s*\d*\s*-?\s*(.*)$")


def parse_tap(text):
    """Outcome of TAP output; the comment lines after a failure are its explanation."""
    outcome = Outcome()
    planned, seen, failing = None, 0, None
    for line in text.splitlines():
        plan = re.match(r"^1\.\.(\d+)", line)
        result = TAP_LINE.match(line)
        if plan:
            planned = int(plan.group(1))
        elif result:
            seen, failing = seen + 1, None
            if result.group(1) == "not ok":
                failing = [result.group(2), ""]
                outcome.failures.append(failing)
            elif re.search(r"#\s*skip", line, re.IGNORECASE):
                outcome.skipped += 1
            else:
                outcome.passed += 1
        elif failing is not None and line.startswith("#"):
            failing[1] += "  " + line.lstrip("# ") + "\n"
    if planned is None or planned != seen:
        outcome.failures.append(("(the plan)", f"  planned {planned} cases, {seen} answered"))
    return outcome


def speaks_catch(executable):
    """Whether Catch2 is linked in: a script or a program of another kind has no such option in it."""
    with open(executable, "rb") as file:
        return b"list-test-names-only" in file.read()


def run_one(test, options):
    """Runs one executable to its end, or to its time limit, in a process group of its own."""
    command = list(test["cmd"])
    environment = dict(os.environ, **test["env"], **options.environment)
    catch = speaks_catch(command[0])
    limit_s = TIMEOUT_S * (SANITIZER_SLOWDOWN if options.sanitizer else 1)
    limit_s = max(limit_s, test.get("timeout") or 0)
    with tempfile.TemporaryDirectory() as scratch, open(scratch + "/output", "w+b") as output:
        if catch:
            command += ["--reporter", "xml", "--out", scratch + "/report.xml"]
        start = time.monotonic()
        process = subprocess.Popen(
            options.launcher + command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            cwd=test["workdir"] or options.source, env=environment, start_new_session=True)
        try:
            status = process.wait(timeout=limit_s)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            try:  # also what the test itself started and left behind
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
        seconds = time.monotonic() - start
        output.seek(0)
        text = output.read().decode("utf-8", "replace")
        if not catch:
            outcome, running = parse_tap(text), None
        elif os.path.exists(scratch + "/report.xml"):
            outcome, running = parse_catch(scratch + "/report.xml")
        else:
            outcome, running = Outcome(), ""

    if status is None:
        outcome.failures.append((running or "(the executable)", f"  ran longer than {limit_s} s"))
    elif status < 0 and not any("FatalErrorCondition" in why for _, why in outcome.failures):
        why = f"  killed by {signal.Signals(-status).name}; the cases after it did not run"
        outcome.failures.append((running or "(the executable)", why))
    elif running is not None:
        outcome.failures.append((running or "(the executable)", f"  the program ended here, with exit status {status}; later cases did not run"))
    elif status != 0 and not outcome.failures:
        outcome.failures.append(("(the executable)", f"  exit status {status}, though no case failed"))
    elif not (outcome.passed or outcome.skipped or outcome.failures):
        outcome.failures.append(("(the executable)", "  ran no case"))
    outcome.output, outcome.seconds = text, seconds
    return outcome


def sanitizer_setup(sanitizer):
    """Environment and launcher of a sanitizer build; a report of any kind must end the program with a failure."""
    if sanitizer == "address":
        return {"ASAN_OPTIONS": "detect_stack_use_after_return=1:strict_string_checks=1:allocator_may_return_null=1",
                "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1"}, []
    if sanitizer == "thread":
        # TSan of GCC 12 cannot map its shadow where the kernel randomizes addresses widely.
        launcher = ["setarch", "-R"]
        usable = subprocess.run(launcher + ["true"], check=False, capture_output=True).returncode == 0
        return {"TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1"}, launcher if usable else []
    return {}, []


def wanted(test, options):
    suites = {suite.split(":")[-1] for suite in test["suite"]}
    return (not options.suite or suites & set(options.suite)) and (not options.match or options.match in test["name"])


def build(directory, tests):
    """Builds what the chosen tests run or depend on, and nothing else."""
    root = os.path.abspath(directory)
    targets = json.loads(introspect(directory, "--targets"))
    files = {target["id"]: [os.path.relpath(name, root) for name in target["filename"]] for target in targets}
    needed = set()
    for test in tests:
        needed.update(os.path.relpath(part, root) for part in test["cmd"][:1] if part.startswith(root + "/"))
        for dependency in test["depends"]:
            needed.update(files.get(dependency, []))
    subprocess.run(["ninja", "-C", directory, *sorted(needed)], check=True)


def introspect(directory, what):
    return subprocess.run(["meson", "introspect", what, directory], check=True, capture_output=True, text=True).stdout


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", required=True)
    parser.add_argument("--suite", action="append", default=[])
    parser.add_argument("--match", default="")
    parser.add_argument("--sanitizer", choices=["address", "thread"])
    options = parser.parse_args()
    options.source = os.getcwd()
    options.environment, options.launcher = sanitizer_setup(options.sanitizer)

    tests = [test for test in json.loads(introspect(options.build, "--tests")) if wanted(test, options)]
    try:
        build(options.build, tests)
    except subprocess.CalledProcessError:
        print("the build failed, so no test ran\n0 passed, 1 failed")
        return 1

    print(f"running {len(tests)} test executables", flush=True)
    total = Outcome()
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        futures = {pool.submit(run_one, test, options): test for test in tests}
        for future in concurrent.futures.as_completed(futures):
            name, outcome = futures[future]["name"], future.result()
            total.passed += outcome.passed
            total.skipped += outcome.skipped
            total.failures += [(name, *failure) for failure in outcome.failures]
            counts = f"{outcome.passed} passed" + (f", {outcome.skipped} skipped" if outcome.skipped else "")
            if outcome.failures:
                counts += f", {len(outcome.failures)} FAILED"
            print(f"{name}: {counts} ({outcome.seconds:.1f} s)", flush=True)
            for case, explanation in outcome.failures:
                print(f"FAILED {name}: {case}\n{explanation.rstrip()}", flush=True)
            if outcome.failures and outcome.output.strip():
                print(f"--- output of {name}, at most its last 200 lines")
                print("\n".join(outcome.output.splitlines()[-200:]) + "\n---", flush=True)

    if total.failures:
        print("\nfailed:")
        for name, case, _ in total.failures:
            print(f"  {name}: {case}")
    summary = f"{total.passed} passed, {len(total.failures)} failed"
    print(summary + (f", {total.skipped} skipped" if total.skipped else ""))
    return 1 if total.failures or not (total.passed or total.skipped) else 0


if __name__ == "__main__":
    sys.exit(main())
