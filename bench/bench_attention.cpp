// SPDX-License-Identifier: Apache-2.0

// Attention of one layer on the host, shaped as SmolLM2 (9 query heads, 3 KV heads of 64, fp16 KV). Decode is
// held to the read bandwidth, prefill to the fp32 FMA rate, both measured in the same run. One JSON line a
// case.
//
// bench_attention [--threads N] [--cpu-target T] [--kv fp32|fp16|bf16|q8_0] [--block-size B] [--only
// SUBSTRING]

#include <immintrin.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "gpu/host/attention.hpp"

namespace {

using namespace spillway;
using namespace spillway::gpu;
using namespace spillway::gpu::host;

constexpr std::uint32_t kHeads = 9, kKvHeads = 3, kDim = 64;

double now_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Fused multiply-adds on fp32 per second of one thread: 12 independent chains, no memory.
__attribute__((target("avx512f"))) double fma_rate_avx512() {
  __m512 acc[12];
  for (int i = 0; i < 12; ++i) acc[i] = _mm512_set1_ps(static_cast<float>(i));
  const __m512 a = _mm512_set1_ps(0.999f), b = _mm512_set1_ps(1e-3f);
  constexpr int kRounds = 4000000;
  const double begin = now_s();
  for (int r = 0; r < kRounds; ++r) {
#pragma GCC unroll 12
    for (int i = 0; i < 12; ++i) acc[i] = _mm512_fmadd_ps(acc[i], a, b);
  }
#pragma GCC unroll 12
  for (int i = 0; i < 12; ++i) __asm__ volatile("" : : "v"(acc[i]));
  return 12.0 * 16 * kRounds / (now_s() - begin);
}
__attribute__((target("avx2,fma"))) double fma_rate_avx2() {
  __m256 acc[12];
  for (int i = 0; i < 12; ++i) acc[i] = _mm256_set1_ps(static_cast<float>(i));
  const __m256 a = _mm256_set1_ps(0.999f), b = _mm256_set1_ps(1e-3f);
  constexpr int kRounds = 4000000;
  const double begin = now_s();
  for (int r = 0; r < kRounds; ++r) {
#pragma GCC unroll 12
    for (int i = 0; i < 12; ++i) acc[i] = _mm256_fmadd_ps(acc[i], a, b);
  }
#pragma GCC unroll 12
  for (int i = 0; i < 12; ++i) __asm__ volatile("" : : "x"(acc[i]));
  return 12.0 * 8 * kRounds / (now_s() - begin);
}

/// Bytes per second that the team reads from memory.
__attribute__((target("avx2"))) void read_all(const std::byte* p, std::size_t n) {
  __m256i x = _mm256_setzero_si256();
  for (std::size_t i = 0; i < n; i += 32) {
    x = _mm256_xor_si256(x, _mm256_load_si256(reinterpret_cast<const __m256i*>(p + i)));
  }
  __asm__ volatile("" : : "x"(x));
}

}  // namespace

int main(int argc, char** argv) {
  std::uint32_t threads = 2, block_size = 16;
  CpuTarget target = detect_cpu_target();
  KvDType dtype = KvDType::kF16;
  std::string only;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string arg = argv[i], value = argv[i + 1];
    if (arg == "--threads") threads = static_cast<std::uint32_t>(std::stoul(value));
    if (arg == "--block-size") block_size = static_cast<std::uint32_t>(std::stoul(value));
    if (arg == "--only") only = value;
    if (arg == "--kv")
      dtype = value == "fp32"   ? KvDType::kF32
              : value == "bf16" ? KvDType::kBF16
              : value == "q8_0" ? KvDType::kQ8_0
                                : KvDType::kF16;
    if (arg == "--cpu-target") {
      Result<CpuTarget> parsed = parse_cpu_target(value);
      if (!parsed) return std::fprintf(stderr, "%s\n", parsed.error().message.c_str()), 2;
      target = capped_cpu_target(*parsed);
    }
  }
  ThreadTeam team(threads);
  const bool wide = target >= CpuTarget::kAvx512Vnni;
  const double fma_rate = (wide ? fma_rate_avx512() : fma_rate_avx2()) * threads;

  model::ModelSpec spec;
  spec.num_layers = 30;
  spec.num_kv_heads = kKvHeads;
  spec.head_dim = kDim;
  Result<KvLayout> layout = make_kv_layout(spec, dtype, block_size);
  if (!layout) return std::fprintf(stderr, "%s\n", layout.error().message.c_str()), 2;
  constexpr std::size_t kPoolBytes = std::size_t{2} << 30;
  Result<KvPool> pool = KvPool::create(*layout, kPoolBytes);
  if (!pool) return 1;
  const AttentionKernels& kernels = attention_kernels(target);
  {  // every slot holds finite numbers and every page is resident
    std::mt19937 random(1);
    std::vector<float> k(kDim), v(kDim);
    std::byte* first = pool->data();
    for (std::uint32_t layer = 0; layer < 30; ++layer)
      for (std::uint32_t h = 0; h < kKvHeads; ++h)
        for (std::uint32_t slot = 0; slot < block_size; ++slot) {
          for (float& x : k) x = static_cast<float>(random() % 2000) * 1e-3f - 1;
          for (float& x : v) x = static_cast<float>(random() % 2000) * 1e-3f - 1;
          kernels.write_kv(*layout, first + layout->k_offset(layer, h), first + layout->v_offset(layer, h),
                           slot, k.data(), v.data());
        }
    for (std::uint32_t b = 1; b < pool->num_blocks(); ++b)
      std::memcpy(pool->block(BlockId{b}), first, layout->block_bytes);
  }
  double read_rate = 0;
  for (int repeat = 0; repeat < 3; ++repeat) {
    const std::size_t chunk = std::size_t{1} << 20, chunks = (std::size_t{512} << 20) / chunk;
    const double begin = now_s();
    team.run([&](TeamMember& member) {
      member.for_chunks(static_cast<std::uint32_t>(chunks),
                        [&](std::uint32_t c) { read_all(pool->data() + c * chunk, chunk); });
    });
    read_rate = std::max(read_rate, static_cast<double>(chunks * chunk) / (now_s() - begin));
  }
  std::printf("{\"target\": \"%s\", \"threads\": %u, \"fma_gflop_per_s\": %.0f, \"read_gb_per_s\": %.1f}\n",
              std::string(to_string(target)).c_str(), threads, fma_rate * 2e-9, read_rate * 1e-9);

  struct Case {
    const char* kind;
    std::uint32_t batch, context, tokens;
  };
  for (const Case& c : {Case{"decode", 1, 64, 1}, Case{"decode", 1, 1024, 1}, Case{"decode", 1, 4096, 1},
                        Case{"decode", 16, 64, 1}, Case{"decode", 16, 1024, 1}, Case{"decode", 16, 4096, 1},
                        Case{"decode", 64, 64, 1}, Case{"decode", 64, 256, 1}, Case{"prefill", 1, 512, 512},
                        Case{"prefill", 1, 2048, 512}}) {
    char name[96];
    std::snprintf(name, sizeof name, "%s batch %u context %u", c.kind, c.batch, c.context);
    if (std::string(name).find(only) == std::string::npos) continue;
    const std::uint32_t blocks_each = (c.context + block_size - 1) / block_size, rows = c.batch * c.tokens;
    std::vector<BlockId> table(std::size_t{c.batch} * blocks_each);
    for (std::size_t i = 0; i < table.size(); ++i)
      table[i] = BlockId{static_cast<std::uint32_t>(i) % pool->num_blocks()};
    std::vector<AttentionSpan> spans;
    for (std::uint32_t s = 0; s < c.batch; ++s) {
      spans.push_back({c.context - c.tokens, c.tokens, s * c.tokens, s * c.tokens,
                       table.data() + std::size_t{s} * blocks_each});
    }
    std::vector<float> q(std::size_t{rows} * kHeads * kDim), out(q.size());
    std::mt19937 random(2);
    for (float& x : q) x = static_cast<float>(random() % 2000) * 1e-3f - 1;
    std::vector<AttentionScratch> scratch;
    for (std::uint32_t t = 0; t < threads; ++t) scratch.emplace_back(*layout, kHeads / kKvHeads);
    AttentionPlan plan;
    plan.build(spans, *layout, {kHeads, 0, threads});
    const auto all_layers = [&] {  // as in a forward pass: a layer's KV comes around again after all others'
      team.run([&](TeamMember& member) {
        for (std::uint32_t layer = 0; layer < 30; ++layer) {
          plan.run(member, kernels, pool->data(), layer, q.data(), kHeads * kDim, out.data(), kHeads * kDim,
                   scratch[member.index()].view());
          member.barrier();
        }
      });
    };
    all_layers();
    double best = 1e30;
    for (double until = now_s() + 1.0; now_s() < until;) {
      const double begin = now_s();
      all_layers();
      best = std::min(best, now_s() - begin);
    }
    double pairs = 0;  // (query, key)
    for (std::uint32_t t = 0; t < c.tokens; ++t) pairs += c.context - t;
    const double fma = pairs * c.batch * kHeads * kDim * 2 * 30;
    const double element = dtype == KvDType::kF32 ? 4 : dtype == KvDType::kQ8_0 ? 1.0625 : 2;
    const double bytes = double(c.batch) * c.context * kKvHeads * kDim * 2 * element * 30;
    std::printf(
        "{\"case\": \"%s\", \"all_layers_ms\": %.3f, \"gflop_per_s\": %.0f, \"share_of_fma_peak\": %.2f",
        name, best * 1e3, fma * 2e-9 / best, fma / best / fma_rate);
    if (c.tokens == 1)
      std::printf(", \"kv_gb_per_s\": %.1f, \"share_of_read_rate\": %.2f", bytes * 1e-9 / best,
                  bytes / best / read_rate);
    std::printf("}\n");
    std::fflush(stdout);
  }
  return 0;
}
