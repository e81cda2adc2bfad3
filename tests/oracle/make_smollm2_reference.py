#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What Hugging Face transformers computes (fp32) with the GGUF model's weights, dequantized by its own reader.

Usage: make_smollm2_reference.py MODEL.gguf OUT.txt    (needs torch, transformers, gguf)

OUT.txt holds, per prompt:
  case
  prompt <ids>
  greedy <ids>                  64 tokens by argmax
  margins <values>              distance between best and second-best logit at each
  norm <i> <x>                  Euclidean norm of the logits from which greedy token i was chosen
  top <i> <id>:<logit> ...      their 50 largest
"""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

GREEDY_TOKENS = 64
KEPT = [0, 1, 20, 63]

LONG = ("The lighthouse keeper kept a log of every ship that passed, and in the evenings he read the entries aloud to "
        "the gulls. ") * 12

PROMPTS = [
    ("raw", "The capital of France is"),
    ("raw", "def fibonacci(n):\n    "),
    ("raw", "Once upon a time, in a village by the sea, there lived an old clockmaker who"),
    ("chat", "What is gravity?"),
    ("chat", "Write a haiku about rain."),
    ("raw", "1, 1, 2, 3, 5, 8, 13,"),
    ("raw", LONG + "One night"),
]


def main(model_file, out_file):
    options = dict(gguf_file=model_file.name)
    tokenizer = AutoTokenizer.from_pretrained(str(model_file.parent), **options)
    model = AutoModelForCausalLM.from_pretrained(str(model_file.parent), dtype=torch.float32, **options).eval()
    lines = []
    for kind, text in PROMPTS:
        if kind == "chat":
            text = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
        prompt = tokenizer.encode(text, add_special_tokens=False)
        greedy, margins, kept, cache, feed = [], [], [], None, prompt
        for i in range(GREEDY_TOKENS):
            with torch.no_grad():
                out = model(torch.tensor([feed]), past_key_values=cache, use_cache=True)
            cache, logits = out.past_key_values, out.logits[0, -1].float()
            best = torch.topk(logits, 50)
            margins.append((best.values[0] - best.values[1]).item())
            if i in KEPT:
                pairs = " ".join(f"{t}:{v:.8g}" for t, v in zip(best.indices.tolist(), best.values.tolist()))
                kept += [f"norm {i} {logits.norm().item():.8g}", f"top {i} {pairs}"]
            greedy.append(int(best.indices[0]))
            feed = greedy[-1:]
        lines += ["case", "prompt " + " ".join(map(str, prompt)), "greedy " + " ".join(map(str, greedy)),
                  "margins " + " ".join(f"{m:.4g}" for m in margins)] + kept
        print(f"{len(prompt)} tokens, smallest margin {min(margins):.4f}: {tokenizer.decode(greedy)[:70]!r}")
    out_file.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
