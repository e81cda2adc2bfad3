#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes small random-weight models of both families and what Hugging Face transformers (fp32) computes with them.

Usage: make_tiny_models.py OUT_DIR    (tests/data/models; needs torch, transformers, safetensors)

Each model becomes OUT_DIR/<name>/ with config.json and safetensors, and reference.txt:
  case                          begins a prompt
  prompt <ids>                  token ids
  greedy <ids>                  the tokens chosen by argmax, one full forward pass each
  margin <x>                    the smallest distance between best and second-best logit on the way
  logits <i> <values>           all logits from which greedy token i was chosen
"""

import shutil
import sys
from pathlib import Path

import torch
from transformers import (LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, OPTConfig,
                          OPTForCausalLM)

PROMPT_LENGTHS = [1, 5, 33, 100, 300]  # the last one crosses the host's attention partition of 256
GREEDY_TOKENS = 24
KEPT_LOGITS = [0, 1, 7, 23]

LLAMA = dict(max_position_embeddings=512, bos_token_id=1, eos_token_id=2, pad_token_id=None)
OPT = dict(max_position_embeddings=512, bos_token_id=1, eos_token_id=2, pad_token_id=0, dropout=0.0,
           activation_function="relu")

MODELS = {
    # grouped queries, whole blocks of 32 everywhere
    "llama-gqa": (LlamaForCausalLM, LlamaConfig(
        vocab_size=128, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=False, **LLAMA), {}),
    # nothing is a multiple of 16: one KV head, head_dim 20, odd vocabulary
    "llama-odd": (LlamaForCausalLM, LlamaConfig(
        vocab_size=131, hidden_size=60, intermediate_size=100, num_hidden_layers=2, num_attention_heads=3,
        num_key_value_heads=1, attention_bias=True, mlp_bias=True, tie_word_embeddings=True, **LLAMA), {}),
    # llama 3's scaled rotary embedding, with an original context short enough that scaling matters
    "llama3-rope": (LlamaForCausalLM, LlamaConfig(
        vocab_size=128, hidden_size=96, intermediate_size=64, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=2, tie_word_embeddings=True,
        rope_parameters={"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
                         "high_freq_factor": 4.0, "original_max_position_embeddings": 64}, **LLAMA), {}),
    # a window of 16 that includes the token itself, head_dim of its own, two shards
    "mistral-window": (MistralForCausalLM, MistralConfig(
        vocab_size=128, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, sliding_window=16, tie_word_embeddings=False, **LLAMA),
        {"max_shard_size": "120KB"}),
    "opt": (OPTForCausalLM, OPTConfig(
        vocab_size=128, hidden_size=64, ffn_dim=128, num_hidden_layers=2, num_attention_heads=4,
        word_embed_proj_dim=64, do_layer_norm_before=True, **OPT), {}),
    # as opt-350m: norm after the block, embeddings narrower than the model
    "opt-post-norm": (OPTForCausalLM, OPTConfig(
        vocab_size=128, hidden_size=64, ffn_dim=96, num_hidden_layers=2, num_attention_heads=4,
        word_embed_proj_dim=32, do_layer_norm_before=False, **OPT), {}),
}


def randomize(model):
    """Weights large enough that attention, positions and biases all show in the logits."""
    generator = torch.Generator().manual_seed(20261123)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                p.copy_(1.0 + 0.3 * torch.randn(p.shape, generator=generator))
            elif p.dim() == 1:
                p.copy_(0.2 * torch.randn(p.shape, generator=generator))
            elif "embed" in name:
                p.copy_(torch.randn(p.shape, generator=generator))
            else:
                p.copy_(2.0 / p.shape[1] ** 0.5 * torch.randn(p.shape, generator=generator))


def run(model, prompt):
    tokens, margin, kept = list(prompt), float("inf"), {}
    for i in range(GREEDY_TOKENS):
        with torch.no_grad():
            logits = model(torch.tensor([tokens]), use_cache=False).logits[0, -1].float()
        best = torch.topk(logits, 2)
        margin = min(margin, (best.values[0] - best.values[1]).item())
        if i in KEPT_LOGITS:
            kept[i] = logits
        tokens.append(int(best.indices[0]))
    return tokens[len(prompt):], margin, kept


def main(out_dir):
    for name, (cls, config, save_options) in MODELS.items():
        config._attn_implementation = "eager"
        model = cls(config).float().eval()
        randomize(model)
        directory = out_dir / name
        shutil.rmtree(directory, ignore_errors=True)
        model.save_pretrained(directory, **save_options)
        (directory / "generation_config.json").unlink(missing_ok=True)
        generator = torch.Generator().manual_seed(7)
        lines = []
        for length in PROMPT_LENGTHS:
            prompt = torch.randint(3, config.vocab_size, (length,), generator=generator).tolist()
            greedy, margin, kept = run(model, prompt)
            lines += ["case", "prompt " + " ".join(map(str, prompt)), "greedy " + " ".join(map(str, greedy)),
                      f"margin {margin:.6g}"]
            lines += [f"logits {i} " + " ".join(f"{v:.8g}" for v in values.tolist()) for i, values in kept.items()]
            print(f"{name}: prompt {length}, smallest margin {margin:.4f}, logits to {max(v.abs().max() for v in kept.values()):.2f}")
        (directory / "reference.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
