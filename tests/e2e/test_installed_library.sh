#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The installed library, as a stranger's program sees it: through pkg-config, with none of our source tree in reach.
# Usage: test_installed_library.sh BUILD_DIRECTORY (built). Speaks TAP.
set -u
build=$(readlink -f "$1")
: "${SPILLWAY_SOURCE:?is set by meson}"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch" || exit 2

cases=0 failures=0
# check NAME COMMAND...
check() {
  local name=$1 output
  shift
  cases=$((cases + 1))
  if output=$("$@" 2>&1); then
    echo "ok $cases - $name"
  else
    failures=$((failures + 1))
    echo "not ok $cases - $name"
    tail -n 20 <<<"$output" | sed 's/^/# /'
  fi
}

install_it() { DESTDIR="$scratch/root" meson install -C "$build" --no-rebuild --quiet; }
check "meson install puts everything under the prefix" install_it

pc=$(find root -name spillway.pc | head -n 1)
export PKG_CONFIG_PATH="$scratch/${pc%/*}"
prefix=$(sed -n 's/^prefix=//p' "$pc")
# Installed into a staging directory: what lies under the prefix lies there, the system's own libraries do not.
flags() { pkg-config --define-variable=prefix="$scratch/root$prefix" --cflags --libs "$1"; }
check "pkg-config knows spillway and spillway-runtime" eval 'flags spillway && flags spillway-runtime'

cat >actors.cpp <<'CPP'
#include <cstdio>
#include <future>

#include "runtime/actor.hpp"
#include "runtime/thread_executor.hpp"

using namespace spillway::runtime;

Task<void> adder(ActorContext<int>& self, std::promise<int> total) {
  int sum = 0;
  while (auto number = co_await self.receive()) {
    sum += *number;
    if (*number == 10) break;
  }
  total.set_value(sum);
}

int main() {
  std::promise<int> promise;
  std::future<int> total = promise.get_future();
  ThreadExecutor executor(ThreadOptions{.workers = 1});
  const Address<int> address = executor.spawn<int>({.name = "adder"}, &adder, std::move(promise));
  for (int i = 1; i <= 10; ++i) address.post(int{i});
  std::printf("%d\n", total.get());
  executor.shutdown(std::chrono::seconds(10));
}
CPP

cat >engine.cpp <<'CPP'
#include <cstdio>

#include "actors/engine.hpp"

int main(int, char** argv) {
  spillway::EngineOptions options;
  options.model = argv[1];
  auto engine = spillway::Engine::create(options);
  if (engine) return 1;
  std::printf("%s\n", engine.error().message.c_str());
}
CPP

build_program() { c++ "$1.cpp" -o "$1" $(flags "$2"); }
check "a program of actors alone builds against spillway-runtime" build_program actors spillway-runtime
check "and runs" test "$(./actors 2>/dev/null)" = 55
check "a program with an engine builds against spillway" build_program engine spillway
check "and runs" test "$(./engine /nonexistent 2>/dev/null | cut -c1-12)" = /nonexistent

cp "$SPILLWAY_SOURCE/examples/offline_batch.cpp" .
check "an example builds outside the tree" build_program offline_batch spillway
spillway_version() { "$(find root -name spillway -type f -perm -u+x | head -n 1)" --version; }
check "the installed program runs" spillway_version

echo "1..$cases"
((failures == 0))
