# SPDX-License-Identifier: Apache-2.0
"""Dequantizes a GGUF file into a Hugging Face directory of bf16 safetensors, which is what vLLM's CPU build takes.

Usage: bf16_weights.py MODEL.gguf DIRECTORY     (needs torch, transformers, accelerate, gguf)
"""

import os
import sys

import torch
import transformers


def main():
    source, target = sys.argv[1:]
    folder, file = os.path.split(os.path.abspath(source))
    loaded = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    # A model that remembers that it was quantized cannot be saved, hence the second one of the same shape.
    model = type(loaded)(config)
    model.load_state_dict(loaded.state_dict())
    model.to(torch.bfloat16).save_pretrained(target)
    transformers.AutoTokenizer.from_pretrained(folder, gguf_file=file).save_pretrained(target)


if __name__ == "__main__":
    main()
