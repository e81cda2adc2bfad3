#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What ./dev demo shows once everything is built: one question to the model, its answer as it is decoded. No exec: the
# statistics count from the process's start.
set -euo pipefail
cd "$(dirname "$0")/.."
build/cli/spillway generate models/SmolLM2-135M-Instruct.Q4_1.gguf --chat --stats \
  --prompt "Why is the sky blue? Answer in a few sentences." --max-tokens 160 --temperature 0
