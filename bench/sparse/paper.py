# SPDX-License-Identifier: Apache-2.0
"""What the SpvLLM paper reports: one T4, opt-125m, 1000 ShareGPT prompts, H2O, one token evicted at a time."""

# p99 of internal fragmentation over iterations, by strategy and budget.
FRAGMENTATION_P99 = {
    "no-op": {256: 0.873, 512: 0.746, 1024: 0.492},
    "free-block": {256: 0.528, 512: 0.395, 1024: 0.078},
    "sparse-copy": {256: 0.064, 512: 0.043, 1024: 0.034},
    "spvllm": {256: 0.316, 512: 0.145, 1024: 0.035},
}
EXACT_FRAGMENTATION_P99 = 0.033
# Requests/s at budget 256, of spvllm and of the engine without sparsification. Divided by block utilisation: not comparable as they stand.
REQUESTS_PER_S = {("spvllm", 256): 44.9, (None, None): 20.3}
SPEED_UP = 44.9 / 20.3
ITL_P99_SHARE = 1 - 0.489  # of the unsparsified engine's, spvllm at budget 256, normalised in the same way
HEADLINES = ("2.21x requests/s (44.9 against 20.3) and -48.9% p99 ITL at budget 256, both divided by the block\n"
             "utilisation; the raw figures were not published.")


def fragmentation(row):
    if row["method"] == "none":
        return EXACT_FRAGMENTATION_P99
    if row["method"] != "h2o":
        return None
    return FRAGMENTATION_P99.get(row["strategy"], {}).get(row["budget"])


def requests_per_s(row):
    return REQUESTS_PER_S.get((row["strategy"], row["budget"])) if row["method"] in ("none", "h2o") else None
