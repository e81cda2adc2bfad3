// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda/launch.cuh"
#include "gpu/cuda/sampling.hpp"

namespace spillway::gpu::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
using u64 = unsigned long long;

__device__ __forceinline__ u64 warp_sum(u64 x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset >>= 1) x += __shfl_xor_sync(0xffffffffu, x, offset);
  return x;
}
__device__ __forceinline__ u64 warp_max(u64 x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset >>= 1) x = max(x, __shfl_xor_sync(0xffffffffu, x, offset));
  return x;
}

struct Scratch {
  u64 words[kWarps + 1];
  unsigned histogram[256];
  u64 chosen;
  int flag;
};

template <bool kMax>
__device__ u64 block_reduce(u64 x, Scratch& s) {
  x = kMax ? warp_max(x) : warp_sum(x);
  if ((threadIdx.x & 31) == 0) s.words[threadIdx.x >> 5] = x;
  __syncthreads();
  if (threadIdx.x < 32) {
    x = kMax ? warp_max(s.words[threadIdx.x]) : warp_sum(s.words[threadIdx.x]);
    if (threadIdx.x == 0) s.words[kWarps] = x;
  }
  __syncthreads();
  x = s.words[kWarps];
  __syncthreads();
  return x;
}

/// Larger floats have larger keys; of equal ones the lower index. Unique in a row.
__device__ __forceinline__ u64 order_key(float x, int index) {
  unsigned bits = __float_as_uint(x + 0.0f);  // -0 is no less than 0
  bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return static_cast<u64>(bits) << 32 | static_cast<unsigned>(~index);
}
__device__ __forceinline__ int index_of(u64 key) { return static_cast<int>(~static_cast<unsigned>(key)); }
__device__ __forceinline__ float value_of(u64 key) {
  const auto bits = static_cast<unsigned>(key >> 32);
  return __uint_as_float(bits & 0x80000000u ? bits & 0x7fffffffu : ~bits);
}

/// One row under its parameters: penalties, then the temperature.
struct Row {
  const float* logits;
  const int* seen;  // null: no penalties
  SampleParams p;
  float factor;

  __device__ __forceinline__ float penalized(int i) const {
    float x = logits[i];
    if (seen == nullptr) return x;
    const int count = seen[i];
    if (count == 0) return x;
    x = x > 0 ? x / p.repetition : x * p.repetition;
    const int in_output = count & (kInPrompt - 1);
    if (in_output > 0) x -= p.frequency * static_cast<float>(in_output) + p.presence;
    return x;
  }
  /// Rounded by itself: fused with a difference it would not cancel against the likeliest one's.
  __device__ __forceinline__ float scaled(int i) const { return __fmul_rn(penalized(i), factor); }
};

/// Weight of a token `below` under the likeliest one, in units of 2^-40.
__device__ __forceinline__ u64 mass_of(float below) {
  return static_cast<u64>(exp(static_cast<double>(below)) * 1099511627776.0 + 0.5);
}

__device__ u64 mass_from(const Row& row, int vocab, float maximum, u64 cut, Scratch& s) {
  u64 sum = 0;
  for (int i = threadIdx.x; i < vocab; i += kThreads) {
    const float x = row.scaled(i);
    if (order_key(x, i) >= cut) sum += mass_of(x - maximum);
  }
  return block_reduce<false>(sum, s);
}

/// The largest key c with mass(keys >= c) >= target, for a target the row's mass reaches.
__device__ u64 key_at_mass(const Row& row, int vocab, float maximum, u64 target, Scratch& s) {
  u64 low = 0, high = ~0ull;  // mass(low) >= target > mass(high)
  while (high - low > 1) {
    const u64 middle = low + (high - low) / 2;
    if (mass_from(row, vocab, maximum, middle, s) >= target) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

/// The k-th largest key, k in [1, vocab], by radix of eight bits.
__device__ u64 kth_key(const Row& row, int vocab, int k, Scratch& s) {
  u64 prefix = 0;
  for (int shift = 56; shift >= 0; shift -= 8) {
    for (int i = threadIdx.x; i < 256; i += kThreads) s.histogram[i] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < vocab; i += kThreads) {
      const u64 key = order_key(row.scaled(i), i);
      if (shift == 56 || key >> (shift + 8) == prefix >> (shift + 8))
        atomicAdd(&s.histogram[key >> shift & 255], 1u);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      int digit = 255, left = k;
      while (digit > 0 && static_cast<int>(s.histogram[digit]) < left) left -= static_cast<int>(s.histogram[digit--]);
      s.chosen = prefix | static_cast<u64>(digit) << shift;
      s.flag = left;
    }
    __syncthreads();
    prefix = s.chosen;
    k = s.flag;
    const bool alone = static_cast<int>(s.histogram[prefix >> shift & 255]) == k;  // the whole digit is in
    __syncthreads();
    if (alone) return prefix;
  }
  return prefix;
}

__device__ int draw_filtered(const Row& row, int vocab, float maximum, Scratch& s) {
  const SampleParams& p = row.p;
  u64 cut = 0;
  if (p.min_p > 0) cut = order_key(maximum + logf(p.min_p), 0x7fffffff) & ~0xffffffffull;
  if (p.top_k > 0 && p.top_k < vocab) cut = max(cut, kth_key(row, vocab, p.top_k, s));
  u64 total = mass_from(row, vocab, maximum, cut, s);
  if (p.top_p < 1.0f) {
    const auto wanted = static_cast<u64>(ceil(static_cast<double>(p.top_p) * static_cast<double>(total)));
    cut = max(cut, key_at_mass(row, vocab, maximum, max(wanted, 1ull), s));
    total = mass_from(row, vocab, maximum, cut, s);
  }
  // The sum must pass u * total, so reach one more.
  const u64 target = min(total, static_cast<u64>(p.uniform * static_cast<double>(total)) + 1);
  return index_of(key_at_mass(row, vocab, maximum, target, s));
}

/// In the order of the ids: each thread sums a run of them, the one in whose run the target lies walks it.
__device__ int draw_from_all(const Row& row, int vocab, float maximum, Scratch& s) {
  const int run = (vocab + kThreads - 1) / kThreads;
  const int begin = min(vocab, static_cast<int>(threadIdx.x) * run), end = min(vocab, begin + run);
  u64 own = 0;
  for (int i = begin; i < end; ++i) own += mass_of(row.scaled(i) - maximum);
  u64 before = own;  // inclusive over the warp, then exclusive over the block
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
#pragma unroll
  for (int offset = 1; offset < 32; offset <<= 1) {
    const u64 other = __shfl_up_sync(0xffffffffu, before, offset);
    if (lane >= offset) before += other;
  }
  if (lane == 31) s.words[warp] = before;
  __syncthreads();
  u64 total = 0, earlier = 0;
  for (int w = 0; w < kWarps; ++w) {
    if (w < warp) earlier += s.words[w];
    total += s.words[w];
  }
  before += earlier - own;
  const u64 target = min(total - 1, static_cast<u64>(row.p.uniform * static_cast<double>(total)));
  if (before <= target && target < before + own) {
    u64 sum = before;
    for (int i = begin; i < end; ++i) {
      sum += mass_of(row.scaled(i) - maximum);
      if (sum > target) {
        s.flag = i;
        break;
      }
    }
  }
  __syncthreads();
  return s.flag;
}

__global__ void __launch_bounds__(kThreads) sample(const SamplingArgs a) {
  __shared__ Scratch s;
  wait_for_producer();
  const int at = blockIdx.x;
  Row row;
  row.p = a.samples[at];
  if (row.p.row < 0) return;
  row.logits = a.logits + std::int64_t{row.p.logits_row} * a.vocab;
  int* seen = a.seen + std::int64_t{row.p.row} * a.vocab;
  row.seen = row.p.penalizes != 0 ? seen : nullptr;
  row.factor = 1;

  u64 best = 0, best_raw = 0, bad = 0;
  const auto look = [&](float raw, int i) {
    bad |= isnan(raw) || raw == INFINITY ? 1u : 0u;
    best_raw = max(best_raw, order_key(raw, i));
  };
  const bool plain = row.seen == nullptr && a.vocab % 4 == 0;
  if (plain) {
    const auto* fours = reinterpret_cast<const float4*>(row.logits);
#pragma unroll 4
    for (int i = threadIdx.x; i < a.vocab / 4; i += kThreads) {
      const float4 x = fours[i];
      look(x.x, 4 * i);
      look(x.y, 4 * i + 1);
      look(x.z, 4 * i + 2);
      look(x.w, 4 * i + 3);
    }
    best = best_raw;
  }
  for (int i = threadIdx.x; i < a.vocab && !plain; i += kThreads) {
    const float raw = row.logits[i], x = row.penalized(i);
    bad |= isnan(raw) || isnan(x) || raw == INFINITY || x == INFINITY ? 1u : 0u;
    best_raw = max(best_raw, order_key(raw, i));
    best = max(best, order_key(x, i));
  }
  bad = block_reduce<true>(bad, s);
  best = block_reduce<true>(best, s);
  best_raw = block_reduce<true>(best_raw, s);
  if (bad != 0 || isinf(value_of(best)) || isinf(value_of(best_raw))) {
    if (threadIdx.x == 0) a.results[at] = {0, 0, 1};
    return;
  }

  int token = index_of(best);
  if (row.p.inverse_temperature > 0) {
    row.factor = row.p.inverse_temperature;
    const float maximum = __fmul_rn(value_of(best), row.factor);
    if (!isinf(maximum)) {
      const bool filters = row.p.min_p > 0 || row.p.top_k > 0 || row.p.top_p < 1.0f;
      token = filters ? draw_filtered(row, a.vocab, maximum, s) : draw_from_all(row, a.vocab, maximum, s);
    }
  }

  float logprob = 0;
  if (row.p.logprobs >= 0) {
    const float maximum = value_of(best_raw);
    u64 sum = 0;
    for (int i = threadIdx.x; i < a.vocab; i += kThreads) sum += mass_of(row.logits[i] - maximum);
    const double total = static_cast<double>(block_reduce<false>(sum, s)) / 1099511627776.0;
    const auto log_total = static_cast<float>(log(total));
    logprob = row.logits[token] - maximum - log_total;
    u64 before = ~0ull;
    for (int k = 0; k < min(row.p.logprobs, min(kTopMax, a.vocab)); ++k) {
      u64 next = 0;
      for (int i = threadIdx.x; i < a.vocab; i += kThreads) {
        const u64 key = order_key(row.logits[i], i);
        if (key < before) next = max(next, key);
      }
      before = block_reduce<true>(next, s);
      if (threadIdx.x == 0) {
        a.top_tokens[std::int64_t{at} * kTopMax + k] = index_of(before);
        a.top_logprobs[std::int64_t{at} * kTopMax + k] = value_of(before) - maximum - log_total;
      }
    }
  }
  if (threadIdx.x == 0) {
    a.results[at] = {token, logprob, 0};
    a.last_tokens[row.p.row] = token;
    if (row.p.penalizes != 0) seen[token] += 1;
  }
}

__global__ void count_seen(int* seen, const std::int32_t* tokens, int count, bool in_prompt) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  if (in_prompt) {
    atomicOr(&seen[tokens[i]], kInPrompt);
  } else {
    atomicAdd(&seen[tokens[i]], 1);
  }
}

}  // namespace

void launch_sampling(const SamplingArgs& args, cudaStream_t stream) {
  launch_overlapped(sample, dim3(args.count), kThreads, 0, args, stream);
}

void launch_count_seen(std::int32_t* seen_row, const std::int32_t* tokens, int count, bool in_prompt,
                       cudaStream_t stream) {
  count_seen<<<(count + 255) / 256, 256, 0, stream>>>(seen_row, tokens, count, in_prompt);
}

}  // namespace spillway::gpu::cuda
