#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The house rules that a script can check, one TAP case each. Usage: check_style.sh [ROOT]
set -u
cd "${1:-$(dirname "$0")/../..}" || exit 2

kFolders=(runtime model gpu actors net cli examples bench tests scripts)
# The folders whose code ships; tests and benches may use threads and clocks to watch it.
kProduct=(runtime model gpu actors net cli examples)

present() {
  local folder
  for folder in "$@"; do [[ -d $folder ]] && echo "$folder"; done
}
# sources FIND_EXPRESSION...: one path a line
sources() { find $(present "${kFolders[@]}") -type f \( "$@" \) ! -path '*/corpus/*' ! -path '*/__pycache__/*' | sort; }
cpp_files() { sources -name '*.hpp' -o -name '*.cpp' -o -name '*.cuh' -o -name '*.cu'; }
# rank FILE: a file may include folders of its own rank or below
rank_of() {
  case "$1" in
    runtime) echo 0 ;; model) echo 1 ;; gpu) echo 2 ;; actors) echo 3 ;; net) echo 4 ;;
    cli | examples | bench) echo 5 ;;
    tests) echo 6 ;;
    *) echo none ;;
  esac
}

cases=0 failures=0
# report NAME FINDINGS: the findings are the explanation, none means the rule is kept
report() {
  cases=$((cases + 1))
  if [[ -z $2 ]]; then
    echo "ok $cases - $1"
  else
    failures=$((failures + 1))
    echo "not ok $cases - $1"
    sed 's/^/# /' <<<"$2"
  fi
}

without_spdx() {
  {
    sources -name '*.hpp' -o -name '*.cpp' -o -name '*.cuh' -o -name '*.cu' -o -name '*.sh' -o -name '*.py'
    ls dev .ci/run 2>/dev/null
  } | while read -r file; do
    head -n 3 "$file" | grep -q 'SPDX-License-Identifier: Apache-2.0' || echo "$file"
  done
}

upward_includes() {
  local file line folder own other
  cpp_files | xargs -r grep -n -H -o -E '^ *#include "[a-z_]+/' | while IFS= read -r line; do
    file=${line%%:*} folder=${line##*\"} folder=${folder%/}
    own=$(rank_of "${file%%/*}") other=$(rank_of "$folder")
    if [[ $other == none ]]; then
      echo "$line... is not a folder of this house"
    elif ((other > own)) || { ((other == 5 && own == 5)) && [[ $folder != "${file%%/*}" ]]; }; then
      echo "$line..."
    fi
  done
}

product_lines() { # PATTERN, then folders that may: lines of product code that match
  local pattern=$1 allowed
  shift
  allowed=$(printf '|%s/' "$@")
  find $(present "${kProduct[@]}") -type f \( -name '*.hpp' -o -name '*.cpp' \) | sort |
    grep -v -E "^(${allowed#|})" | xargs -r grep -n -E "$pattern" | grep -v -E '^[^:]+:[0-9]+: *//'
}

report "every source file carries its SPDX line" "$(without_spdx)"
report "includes point downward only" "$(upward_includes)"
report "mutexes, threads and atomics stay in runtime/ and where devices drive threads of their own" "$(product_lines \
  'std::(recursive_|shared_|timed_)?mutex|std::j?thread\b|std::atomic|std::condition_variable|#include <(mutex|shared_mutex|thread|atomic|condition_variable)>' \
  runtime gpu/host gpu/cuda gpu/ranks)"
report "only the executors, the programs and the real devices read a clock" "$(product_lines '_clock::now\(|clock_gettime\(|gettimeofday\(|\btime\((NULL|nullptr|0)\)' \
  runtime gpu/host gpu/cuda gpu/ranks cli examples)"
report "no file has more than 700 lines" "$(sources -name '*.hpp' -o -name '*.cpp' -o -name '*.cuh' -o -name '*.cu' \
  -o -name '*.py' -o -name '*.sh' | xargs -r wc -l | awk '$2 != "total" && $1 > 700 { print $2 ": " $1 " lines" }')"
report "no work is left as a note in the code" "$(sources -name '*' | grep -v style/ | xargs -r grep -n -I -w -E 'TODO|FIXME|XXX|HACK')"
report "every header is guarded by pragma once" "$(sources -name '*.hpp' -o -name '*.cuh' | xargs -r grep -L '^#pragma once')"
report "Catch2 is included through its one shim" "$(cpp_files | grep -v tests/support/ | xargs -r grep -n '#include *<catch2/')"
report "no file is named after nothing in particular" "$(sources -name '*' | grep -E '/(utils?|common|helpers?|misc|[a-z_]*manager_impl)\.')"
report "no C++ line is longer than 132 columns" "$(cpp_files | while read -r file; do
  awk -v file="$file" 'length($0) > 132 && !/R"|https?:/ { print file ":" NR ": " length($0) " columns" }' "$file"
done)"

echo "1..$cases"
((failures == 0))
