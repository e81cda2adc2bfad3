// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda/step_slot.hpp"

#include <algorithm>
#include <span>
#include <string>
#include <utility>

namespace spillway::gpu::cuda {

StepSlot::~StepSlot() {
  for (const cudaEvent_t event : {begin, end, inputs_there, done})
    if (event != nullptr) (void)cudaEventDestroy(event);
}

Result<void> StepSlot::allocate(const StepLimits& limits, std::uint32_t logits_of_token) {
  const std::size_t seqs = limits.max_seqs, input_bytes = StepInputs::bytes_needed(limits);
  const std::size_t row_bytes = (seqs * sizeof(SampledRow) + 15) / 16 * 16, result_bytes = row_bytes + seqs * kTopMax * 8;
  const struct {
    Memory* memory;
    std::size_t bytes;
    bool pinned;
    const char* purpose;
  } wanted[] = {{&inputs, input_bytes, true, "a step's inputs"},
                {&arrived_inputs, input_bytes, false, "a step's inputs"},
                {&results, result_bytes, true, "a step's results"},
                {&left_results, result_bytes, false, "a step's results"},
                {&emptied, limits.max_sparse > 0 ? limits.table_entries : 0, true, "blocks that ran empty"}};
  for (const auto& [memory, bytes, pinned, purpose] : wanted) {
    if (bytes == 0) continue;
    Result<Memory> allocated = pinned ? Memory::pinned(bytes, purpose) : Memory::device(bytes, purpose);
    if (!allocated) return allocated.error();
    *memory = std::move(*allocated);
  }
  host = StepInputs::at(inputs.data(), limits);
  arrived = StepInputs::at(arrived_inputs.data(), limits);
  rows = results.as<SampledRow>();
  top_tokens = reinterpret_cast<std::int32_t*>(results.as<char>() + row_bytes);
  top_logprobs = reinterpret_cast<float*>(top_tokens + seqs * kTopMax);
  logits.resize(seqs * logits_of_token);
  for (cudaEvent_t* event : {&begin, &end})
    if (Result<void> made = check_cuda(cudaEventCreate(event), "event"); !made) return made;
  for (cudaEvent_t* event : {&inputs_there, &done})
    if (Result<void> made = check_cuda(cudaEventCreateWithFlags(event, cudaEventDisableTiming), "event"); !made) return made;
  return {};
}

void StepSlot::read_tokens(std::uint32_t vocab, const decltype(CudaOptions::on_logits)& on_logits, StepResult& result) const {
  for (std::size_t i = 0; i < sampled.size(); ++i) {
    const SampledRow& row = rows[i];
    if (on_logits) on_logits(plan, sampled[i], std::span<const float>(logits.data() + i * vocab, vocab));
    if (row.bad != 0) {
      result.failed = true;
      result.message = "step " + std::to_string(result.step) + ", sequence " + std::to_string(sampled[i]) +
                       ": the model's logits are not finite numbers (damaged weights or KV cache)";
      result.tokens.clear();
      return;
    }
    SampledToken token{sampled[i], row.token, row.logprob, {}};
    const std::int32_t top = std::min(logprobs[i], static_cast<std::int32_t>(vocab));
    for (std::int32_t k = 0; k < top; ++k) {
      const std::size_t at = i * kTopMax + static_cast<std::size_t>(k);
      token.top.push_back({top_tokens[at], top_logprobs[at]});
    }
    result.tokens.push_back(std::move(token));
  }
}

}  // namespace spillway::gpu::cuda
