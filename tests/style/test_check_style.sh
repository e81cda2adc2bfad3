#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Holds check_style.sh to its word: a clean tree passes, and each planted offence is found by its rule alone.
set -u
checker=$(dirname "$(readlink -f "$0")")/check_style.sh
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
spdx='// SPDX-License-Identifier: Apache-2.0'
cases=0 failures=0

clean_tree() {
  rm -rf "${tree:?}"/*
  mkdir -p "$tree"/{runtime,model,gpu/host,actors,cli,tests}
  printf '%s\n' "$spdx" '#pragma once' '#include <atomic>' >"$tree/runtime/inbox.hpp"
  printf '%s\n' "$spdx" '#pragma once' '#include "runtime/inbox.hpp"' >"$tree/actors/router.hpp"
}

# expect NAME FAILED_RULES: the numbers of the rules that must fail on the tree as it is now
expect() {
  local failed
  failed=$("$checker" "$tree" | sed -n 's/^not ok \([0-9]*\) .*/\1/p' | tr '\n' ' ')
  cases=$((cases + 1))
  if [[ ${failed% } == "$2" ]]; then
    echo "ok $cases - $1"
  else
    failures=$((failures + 1))
    echo "not ok $cases - $1"
    echo "# expected rules '$2' to fail, got '${failed% }'"
  fi
}

# plant FILE LINE...: a file with a good head and the given lines
plant() {
  local file=$1
  shift
  clean_tree
  printf '%s\n' "$spdx" '#pragma once' "$@" >"$tree/$file"
}

clean_tree && expect "style check: a clean tree passes" ""
clean_tree && echo '#pragma once' >"$tree/model/spec.hpp" && expect "style check: a missing SPDX line is found" "1"
plant model/spec.hpp '#include "actors/router.hpp"' && expect "style check: an upward include is found" "2"
plant cli/main.hpp '#include "tests/support/catch.hpp"' && expect "style check: a program that includes a test is found" "2"
plant actors/pool.hpp 'std::mutex mutex_;' && expect "style check: a mutex in an actor is found" "3"
plant gpu/host/team.hpp 'std::thread thread_;' && expect "style check: the host's thread team may have threads" ""
plant actors/pool.hpp 'auto t = std::chrono::steady_clock::now();' && expect "style check: a clock read in an actor is found" "4"
plant model/big.hpp "$(yes '// line' | head -n 700)" && expect "style check: a file of 702 lines is found" "5"
plant model/spec.hpp '// TO''DO: later' && expect "style check: a note to self is found" "6"
clean_tree && echo "$spdx" >"$tree/model/open.hpp" && expect "style check: an unguarded header is found" "7"
plant tests/test_pool.hpp '#include <catch2/catch.hpp>' && expect "style check: Catch2 beside its shim is found" "8"
plant model/utils.hpp 'int x;' && expect "style check: a file called utils is found" "9"
plant model/wide.hpp "// $(printf 'x%.0s' {1..132})" && expect "style check: a line of 135 columns is found" "10"

echo "1..$cases"
((failures == 0))
