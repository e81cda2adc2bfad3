# SPDX-License-Identifier: Apache-2.0
"""Models of real size with transformers' own random initialisation, and what transformers answers in fp32.

    python3 tests/oracle/make_sized_models.py DIR

For the GPU tests (SPW_ORACLE_MODELS=DIR): a Llama with grouped queries of 135 million parameters and an OPT of
125 million. Weights are rounded to bf16 before the reference is computed and saved as bf16, so that both sides start
from the same numbers.
"""

import sys
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM

MODELS = {
    "llama-135m": (LlamaForCausalLM, LlamaConfig(
        vocab_size=8192, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=2048, tie_word_embeddings=True)),
    "opt-125m": (OPTForCausalLM, OPTConfig(
        vocab_size=8192, hidden_size=768, ffn_dim=3072, num_hidden_layers=12, num_attention_heads=12,
        word_embed_proj_dim=768, max_position_embeddings=2048)),
}
PROMPT_LENGTHS = (1, 37, 300)
TOKENS = 12


def main(out_dir):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = False
    for name, (cls, config) in MODELS.items():
        torch.manual_seed(20261124)
        config._attn_implementation = "eager"
        model = cls(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(parameter.bfloat16().float())
        directory = out_dir / name
        model.bfloat16().save_pretrained(directory)
        (directory / "generation_config.json").unlink(missing_ok=True)
        # Read back, not widened: to bfloat16 went the rotary frequencies too.
        model = cls.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").to(device).eval()
        generator = torch.Generator().manual_seed(7)
        lines = []
        for length in PROMPT_LENGTHS:
            prompt = torch.randint(3, config.vocab_size, (length,), generator=generator).tolist()
            tokens, rows = list(prompt), []
            for i in range(TOKENS):
                with torch.no_grad():
                    logits = model(torch.tensor([tokens], device=device), use_cache=False).logits[0, -1].float().cpu()
                tokens.append(int(logits.argmax()))
                rows.append(f"logits {i} " + " ".join(f"{v:.8g}" for v in logits.tolist()))
            lines += ["case", "prompt " + " ".join(map(str, prompt)), "greedy " + " ".join(map(str, tokens[length:]))]
            lines += [rows[i] for i in (0, 1, TOKENS - 1)]
        (directory / "reference.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
