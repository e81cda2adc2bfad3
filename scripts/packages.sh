# SPDX-License-Identifier: Apache-2.0
# Sourced by ./dev: which Debian packages a command needs, and how the missing ones are installed.

kBuildPackages=(
  meson ninja-build g++ pkg-config libboost1.81-dev libboost-json1.81-dev libspdlog-dev
  libconcurrentqueue-dev libcli11-dev libpcre2-dev libssl-dev libutf8proc-dev catch2)
kTestPackages=()
kBenchPackages=(libcaf-dev)
kFuzzPackages=(clang libclang-rt-14-dev)
kFormatPackages=(clang-format git)
kFetchPackages=(python3)

fail() {
  echo "./dev: $*" >&2
  exit 1
}

# The command that proves a tool is there, whoever installed it; empty for packages that are no tools.
tool_of() {
  case "$1" in
    meson) echo meson ;;
    ninja-build) echo ninja ;;
    g++) echo c++ ;;
    pkg-config) echo pkg-config ;;
    clang) echo clang++ ;;
    clang-format | git | python3) echo "$1" ;;
  esac
}

is_installed() {
  local tool
  tool=$(tool_of "$1")
  if [[ -n $tool ]]; then
    command -v "$tool" >/dev/null
  else
    [[ $(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) == installed ]]
  fi
}

# ensure_packages PACKAGE...: returns once all are installed; touches the network only for what is missing.
ensure_packages() {
  local package missing=() as_root=()
  if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    command -v meson >/dev/null && return
    fail "this system has no apt-get; install what these Debian 12 packages hold and run again: $*"
  fi
  for package in "$@"; do
    is_installed "$package" || missing+=("$package")
  done
  ((${#missing[@]})) || return 0

  local install="apt-get install -y --no-install-recommends ${missing[*]}"
  if [[ $(id -u) != 0 ]]; then
    command -v sudo >/dev/null || fail "packages are missing and there is no sudo; run as root: $install"
    as_root=(sudo)
  fi
  echo "./dev: installing ${missing[*]}" >&2
  # apt-get update succeeds even when it reached nothing, so only the install's own exit status counts.
  local log
  log=$(mktemp) || fail "no room for a log file in ${TMPDIR:-/tmp}"
  if {
    ${as_root[@]+"${as_root[@]}"} apt-get -o DPkg::Lock::Timeout=120 update -qq || true
    ${as_root[@]+"${as_root[@]}"} env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 \
      install -y -qq --no-install-recommends "${missing[@]}"
  } </dev/null >"$log" 2>&1; then
    rm -f "$log"
  else
    tail -n 20 "$log" >&2
    rm -f "$log"
    fail "apt-get could not install: ${missing[*]}
       Its own words are above. Without a network, install these by other means and run ./dev again."
  fi
}
