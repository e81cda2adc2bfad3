// SPDX-License-Identifier: Apache-2.0
#include "actors/step_pace.hpp"

#include <algorithm>
#include <bit>

namespace spillway::actors {
namespace {

constexpr std::uint32_t kFirstChunk = 16;
constexpr std::uint32_t kLeastChunk = 4;     // a prompt always moves on
constexpr std::uint32_t kMeasureEvery = 64;  // steps between two that only decode
constexpr std::uint32_t kHalfEvery = 8;      // chunks between two of half the length
constexpr std::uint32_t kProbesMax = 8;      // results may be some steps away, or never come
constexpr double kNew = 0.5;                 // weight of the newest measurement
constexpr double kJump = 1.5;                // what one measurement may be off the estimate and be believed
constexpr double kWaitingWeight = 8;         // one who waits for a first token, in readers
constexpr double kWorthwhileStretch = 1.8;   // of a step whose chunk is as long as it takes to be worthwhile

}  // namespace

StepPace::DecodeTime& StepPace::decode_time(std::uint32_t decodes) {
  return decode_times_[static_cast<std::size_t>(std::bit_width(decodes)) - 1];
}

std::uint32_t StepPace::prompt_tokens(std::uint32_t decodes, std::uint32_t prompts) {
  if (max_stretch_ == 0 || decodes == 0) return kUnlimited;
  DecodeTime& alone = decode_time(decodes);
  if ((alone.ns == 0 || alone.age >= kMeasureEvery) && probes_ < kProbesMax) {
    ++probes_;
    return 0;
  }
  probes_ = 0;
  ++alone.age;
  std::uint32_t chunk = kFirstChunk;
  if (alone.ns > 0 && chunk_cost_.known()) {
    const double others = prompts > 0 ? prompts - 1.0 : 0.0;
    const double urgency = std::max(1.0, kWaitingWeight * others / decodes);
    const double begin = chunk_cost_.begin_ns();
    const double worthwhile = std::min(2 * begin, (kWorthwhileStretch - 1) * alone.ns);
    const double allowed = std::max((max_stretch_ - 1) * urgency * alone.ns, worthwhile);
    const double fits = std::max(0.0, allowed - begin) / chunk_cost_.token_ns();
    const std::uint32_t most = std::max(kFirstChunk, 2 * last_chunk_);
    chunk = fits < most ? static_cast<std::uint32_t>(fits) : most;
  }
  if (++chunks_ % kHalfEvery == 0) chunk /= 2;
  return std::max(chunk, kLeastChunk);
}

void StepPace::measured(std::uint32_t decodes, std::uint32_t prompt_tokens, std::int64_t device_ns) {
  if (max_stretch_ == 0 || device_ns <= 0) return;
  const auto ns = static_cast<double>(device_ns);
  if (prompt_tokens == 0) {
    if (decodes == 0) return;
    DecodeTime& alone = decode_time(decodes);
    const double believed = std::clamp(ns, alone.ns / kJump, alone.ns * kJump);
    alone.ns = alone.ns == 0 ? ns : (1 - kNew) * alone.ns + kNew * believed;
    alone.age = 0;
    return;
  }
  const double alone_ns = decodes == 0 ? 0 : decode_time(decodes).ns;
  if (decodes > 0) last_chunk_ = std::max(prompt_tokens, last_chunk_ / 2);
  if (decodes > 0 && alone_ns == 0) return;
  // A prompt's tokens cost something, whatever the noise says.
  chunk_cost_.add(prompt_tokens, std::max(ns - alone_ns, 0.01 * ns));
}

}  // namespace spillway::actors
