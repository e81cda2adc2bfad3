#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Does ./dev test count right? Scripts that behave like Catch2 programs and like TAP programs, each going wrong in its
# own way, are run by scripts/run_tests.py in a Meson project of their own. TAP.
set -u
runner=$(readlink -f "$(dirname "$0")/../../scripts/run_tests.py")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cases=0 failures=0
declare -A bodies

# What a fake Catch2 program needs: the option's name that gives Catch2 away (in two parts, for this script speaks TAP
# itself), and the report file.
kCatch='#!/usr/bin/env bash
# list-test-''names-only
while (($# > 0)); do [[ $1 == --out ]] && out=$2; shift; done
begin() { echo "<Catch name=\"x\"><Group name=\"x\">" >"$out"; }
pass() { echo "<TestCase name=\"$1\"><OverallResult success=\"true\"/></TestCase>" >>"$out"; }
open() { echo "<TestCase name=\"$1\">" >>"$out"; }
broken() { echo "<TestCase name=\"$1\"><Expression success=\"false\" type=\"CHECK\" filename=\"f.cpp\" line=\"3\"><Original>a == b</Original><Expanded>1 == 2</Expanded></Expression><OverallResult success=\"false\"/></TestCase>" >>"$out"; }
skipped() { echo "<TestCase name=\"$1\"><Warning>skipped: no model</Warning><OverallResult success=\"true\"/></TestCase>" >>"$out"; }
finish() { echo "</Group></Catch>" >>"$out"; }
begin
'

# expect NAME SUMMARY STATUS [LINE]: runs a project with the program given on stdin as its one test
expect() {
  local name=$1 summary=$2 status=$3 line=${4:-} output actual
  rm -rf "$work/project"
  mkdir -p "$work/project"
  cat >"$work/project/program"
  chmod +x "$work/project/program"
  printf '%s\n' "project('counting')" "test('program', find_program('program'), suite: 'unit', timeout: 5)" \
    >"$work/project/meson.build"
  output=$(cd "$work/project" && meson setup build >/dev/null 2>&1 && python3 "$runner" --build build 2>&1)
  actual=$?
  cases=$((cases + 1))
  if [[ $(tail -n 1 <<<"$output") == "$summary" && $actual == "$status" && $output == *"$line"* ]]; then
    echo "ok $cases - test count: $name"
  else
    failures=$((failures + 1))
    echo "not ok $cases - test count: $name"
    echo "# wanted '$summary', status $status, a line with '$line'; status $actual and:"
    sed 's/^/# /' <<<"$output"
  fi
}

expect "cases are counted, not programs" "2 passed, 0 failed" 0 <<<"$kCatch
pass one; pass two; finish"
expect "a failed case is named with its assertion" "1 passed, 1 failed" 1 "f.cpp:3: CHECK( a == b )" <<<"$kCatch
pass one; broken two; finish; exit 1"
expect "a case that warns of skipping is counted apart" "1 passed, 0 failed, 1 skipped" 0 <<<"$kCatch
pass one; skipped two; finish"
expect "a crash is a failure of the case it happened in" "1 passed, 1 failed" 1 "FAILED program: two" <<<"$kCatch
pass one; open two; kill -SEGV \$\$"
expect "an early exit is a failure even when its status is 0" "1 passed, 1 failed" 1 "FAILED program: two" <<<"$kCatch
pass one; open two; exit 0"
expect "a report that breaks off between two cases is a failure" "1 passed, 1 failed" 1 "(the executable)" <<<"$kCatch
pass one; exit 0"
expect "a leak at the end is a failure of the program" "1 passed, 1 failed" 1 "exit status 23" <<<"$kCatch
pass one; finish; exit 23"
expect "a program that writes no report is a failure" "0 passed, 1 failed" 1 "(the executable)" <<<"$kCatch
rm \"\$out\"; exit 0"
expect "a program without cases is a failure" "0 passed, 1 failed" 1 "ran no case" <<<"$kCatch
finish"
expect "TAP cases are counted, and a skipped one apart" "1 passed, 0 failed, 1 skipped" 0 <<'PROGRAM'
#!/bin/sh
printf '1..2\nok 1 - one\nok 2 - two # SKIP no reason\n'
PROGRAM
expect "a failed TAP case is named with its comment" "1 passed, 1 failed" 1 "because of that" <<'PROGRAM'
#!/bin/sh
printf 'ok 1 - one\nnot ok 2 - two\n# because of that\n1..2\n'
exit 1
PROGRAM
expect "TAP that ends before its plan is a failure" "1 passed, 1 failed" 1 "planned 2 cases, 1 answered" <<'PROGRAM'
#!/bin/sh
printf '1..2\nok 1 - one\n'
PROGRAM

echo "1..$cases"
((failures == 0))
