# SPDX-License-Identifier: Apache-2.0
# Sourced by ./dev: build directories, and the programs that are run out of them.

# configure DIRECTORY [MESON_OPTION...]: a release build unless the options say otherwise. A directory that was
# configured with other options, or for another checkout, is made anew.
configure() {
  local directory=$1 stamp
  shift
  stamp="$PWD $* ${CXX:-}"
  if [[ -f $directory/build.ninja && $(cat "$directory/.configured" 2>/dev/null) == "$stamp" ]]; then
    return
  fi
  rm -rf "$directory"
  meson setup "$directory" -Dbuildtype=release "$@" >"$directory.log" 2>&1 || {
    cat "$directory.log" >&2
    rm -f "$directory.log"
    fail "meson could not configure $directory (its message is above)"
  }
  mv "$directory.log" "$directory/configure.log"
  echo "$stamp" >"$directory/.configured"
}

# compile DIRECTORY [TARGET...]: says nothing when there is nothing to do.
compile() {
  local directory=$1
  shift
  [[ ${1:-} == all ]] && shift
  [[ $(ninja -C "$directory" -n "$@" 2>/dev/null | tail -n 1) == *"no work to do"* ]] && return
  ninja -C "$directory" "$@" || fail "the build failed (see above)"
}

# What ./dev build makes: the program and the examples, not the tests.
default_targets() {
  echo cli/spillway
  python3 scripts/targets.py "$1" examples/
}

# run_benches NAME JSON [ARGUMENT...]: NAME is a bench without "bench_", or empty for all but bench_engine and bench_sparse*,
# which scripts of their own drive.
run_benches() {
  local name=$1 json=$2 target bench known=() found=""
  shift 2
  mapfile -t known < <(python3 scripts/targets.py build bench/bench_)
  for target in "${known[@]}"; do
    bench=${target##*/bench_}
    [[ $name == "$bench" || (-z $name && $bench != engine && $bench != sparse*) ]] || continue
    found=1
    compile build "$target"
    local command=("build/$target" "$@")
    [[ $bench != host_device ]] || command=("build/$target" "$kModelFile" "$@")
    "${command[@]}" | python3 scripts/bench_lines.py ${json:+--json} "${command[@]}"
  done
  [[ -n $found ]] || fail "no bench '$name'; there are: $(sed 's|.*/bench_||' <<<"$(printf '%s\n' "${known[@]}")" | tr '\n' ' ')peers"
}

# run_fuzzer NAME SECONDS: starts from the committed corpus, keeps what it finds in build-fuzz/.
run_fuzzer() {
  local name=$1 seconds=$2 target
  CC=clang CXX=clang++ configure build-fuzz -Dfuzz=true -Dbench=disabled -Dbuildtype=debugoptimized
  target=$(python3 scripts/targets.py build-fuzz "" | grep -x -E "(.*/)?fuzz_$name" || true)
  [[ -n $name && -n $target ]] ||
    fail "fuzz: which target? There are: $(python3 scripts/targets.py build-fuzz "" | sed -n 's|.*/fuzz_||p' | tr '\n' ' ')"
  compile build-fuzz "$target"
  mkdir -p "build-fuzz/corpus-$name"
  local corpus=("build-fuzz/corpus-$name")
  [[ -d tests/fuzz/corpus/$name ]] && corpus+=("tests/fuzz/corpus/$name")
  "build-fuzz/$target" -max_total_time="$seconds" -timeout=5 -rss_limit_mb=2048 -print_final_stats=1 \
    -artifact_prefix="build-fuzz/$name-" "${corpus[@]}"
}
