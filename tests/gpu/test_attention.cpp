// SPDX-License-Identifier: Apache-2.0
#include "gpu/host/attention.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>

#include "gpu/host/cpu.hpp"
#include "gpu/host/matmul.hpp"
#include "tests/support/catch.hpp"

namespace spillway::gpu::host {
namespace {

struct Shape {
  std::uint32_t heads, kv_heads, head_dim, block_size, window;
  KvDType dtype;
};

/// A sequence in a pool, with what was written kept in double precision.
struct Fixture {
  Shape shape;
  KvLayout layout;
  KvPool pool;
  std::vector<BlockId> blocks;
  std::vector<double> keys, values;  // [position][kv_head][head_dim]
  std::vector<float> q;              // [position][head][head_dim]

  Fixture(const Shape& s, std::uint32_t length, const AttentionKernels& kernels) : shape(s) {
    model::ModelSpec spec;
    spec.num_layers = 2;
    spec.num_kv_heads = static_cast<std::int32_t>(s.kv_heads);
    spec.head_dim = static_cast<std::int32_t>(s.head_dim);
    Result<KvLayout> made = make_kv_layout(spec, s.dtype, s.block_size);
    REQUIRE(made.ok());
    layout = *made;
    const std::uint32_t count = (length + s.block_size - 1) / s.block_size;
    Result<KvPool> mapped = KvPool::create(layout, layout.block_bytes * (count + 3));
    REQUIRE(mapped.ok());
    pool = std::move(*mapped);
    // What another sequence left behind must not matter, not even a NaN.
    std::memset(pool.data(), 0xff, layout.block_bytes * pool.num_blocks());
    for (std::uint32_t b = 0; b < count; ++b) blocks.push_back(BlockId{b});
    std::mt19937 random(length + s.head_dim);
    std::shuffle(blocks.begin(), blocks.end(), random);
    std::normal_distribution<float> normal;
    std::vector<float> k(s.head_dim), v(s.head_dim);
    for (std::uint32_t p = 0; p < length; ++p) {
      std::byte* block = pool.block(blocks[p / s.block_size]);
      for (std::uint32_t h = 0; h < s.kv_heads; ++h) {
        for (float& x : k) x = normal(random);
        for (float& x : v) x = normal(random);
        keys.insert(keys.end(), k.begin(), k.end());
        values.insert(values.end(), v.begin(), v.end());
        kernels.write_kv(layout, block + layout.k_offset(1, h), block + layout.v_offset(1, h),
                         p % s.block_size, k.data(), v.data());
      }
    }
    q.resize(std::size_t{length} * s.heads * s.head_dim);
    const float scale = 2 / std::sqrt(static_cast<float>(s.head_dim));
    for (float& x : q) x = normal(random) * scale;
  }

  /// softmax(q . k) v in double; q is in units of log2, as the kernels take it.
  [[nodiscard]] std::vector<double> reference(std::uint32_t position, std::uint32_t head) const {
    const std::uint32_t d = shape.head_dim, kv = head / (shape.heads / shape.kv_heads);
    const std::uint32_t first =
        shape.window != 0 && position + 1 > shape.window ? position + 1 - shape.window : 0;
    std::vector<double> scores;
    for (std::uint32_t p = first; p <= position; ++p) {
      const double* k = keys.data() + (std::size_t{p} * shape.kv_heads + kv) * d;
      const float* row = q.data() + (std::size_t{position} * shape.heads + head) * d;
      scores.push_back(std::inner_product(k, k + d, row, 0.0));
    }
    const double top = *std::max_element(scores.begin(), scores.end());
    double total = 0;
    for (double& s : scores) total += s = std::exp2(s - top);
    std::vector<double> out(d);
    for (std::uint32_t p = first; p <= position; ++p) {
      const double* v = values.data() + (std::size_t{p} * shape.kv_heads + kv) * d;
      for (std::uint32_t i = 0; i < d; ++i) out[i] += scores[p - first] / total * v[i];
    }
    return out;
  }

  [[nodiscard]] std::vector<float> attend(const AttentionKernels& kernels, std::uint32_t first,
                                          std::uint32_t tokens, std::uint32_t threads,
                                          const PromptKernels* prompt = nullptr) const {
    ThreadTeam team(threads);
    std::vector<AttentionScratch> scratch;
    for (std::uint32_t t = 0; t < threads; ++t) scratch.emplace_back(layout, shape.heads / shape.kv_heads);
    const std::size_t stride = std::size_t{shape.heads} * shape.head_dim;
    std::vector<float> out(tokens * stride, -1.0f);
    AttentionPlan plan;
    plan.build({{first, tokens, first, 0, blocks.data(), prompt}}, layout,
               {shape.heads, shape.window, threads});
    for (int repeat = 0; repeat < 2; ++repeat) {  // a plan runs once a layer
      team.run([&](TeamMember& member) {
        plan.run(member, kernels, pool.data(), 1, q.data(), stride, out.data(), stride,
                 scratch[member.index()].view());
      });
    }
    return out;
  }
};

double tolerance(KvDType dtype) {
  switch (dtype) {
    case KvDType::kF32:
      return 3e-6;
    case KvDType::kF16:
      return 4e-3;
    case KvDType::kBF16:
      return 3e-2;
    case KvDType::kQ8_0:
      return 5e-2;
  }
  return 0;
}

}  // namespace

TEST_CASE("attention: outputs equal a double-precision softmax on every target, shape and KV type") {
  const Shape shape =
      GENERATE(Shape{9, 3, 64, 16, 0, KvDType::kF32}, Shape{9, 3, 64, 16, 0, KvDType::kF16},
               Shape{9, 3, 64, 32, 0, KvDType::kQ8_0}, Shape{4, 4, 20, 16, 0, KvDType::kF32},
               Shape{4, 1, 128, 64, 0, KvDType::kBF16}, Shape{2, 2, 80, 8, 0, KvDType::kF16},
               Shape{4, 2, 32, 8, 0, KvDType::kQ8_0}, Shape{14, 2, 64, 16, 0, KvDType::kF16},
               Shape{6, 2, 256, 16, 0, KvDType::kF32}, Shape{4, 2, 48, 16, 19, KvDType::kF32},
               Shape{4, 2, 64, 16, 300, KvDType::kF32}, Shape{100, 1, 16, 16, 0, KvDType::kF32});
  constexpr std::uint32_t kLength = 600;  // three partitions
  for (const CpuTarget target : available_cpu_targets()) {
    INFO(to_string(target) << ", heads " << shape.heads << "/" << shape.kv_heads << ", head_dim "
                           << shape.head_dim << ", blocks of " << shape.block_size << ", window "
                           << shape.window << ", KV type " << static_cast<int>(shape.dtype));
    const AttentionKernels& kernels = attention_kernels(target);
    const Fixture fixture(shape, kLength, kernels);
    const std::vector<float> all = fixture.attend(kernels, 0, kLength, 2);
    double worst = 0;
    for (std::uint32_t position : {0u, 1u, 15u, 16u, 17u, 255u, 256u, 257u, 511u, 512u, 599u}) {
      for (std::uint32_t head = 0; head < shape.heads; head += std::max(1u, shape.heads / 4)) {
        const std::vector<double> expected = fixture.reference(position, head);
        const float* got = all.data() + (std::size_t{position} * shape.heads + head) * shape.head_dim;
        for (std::uint32_t i = 0; i < shape.head_dim; ++i)
          worst = std::max(worst, std::abs(got[i] - expected[i]));
      }
    }
    CHECK(worst < tolerance(shape.dtype));
  }
}

TEST_CASE("attention: a row has the same bits in a tile of any size and on any number of threads") {
  const Shape shape = GENERATE(Shape{9, 3, 64, 16, 0, KvDType::kF16}, Shape{4, 2, 64, 16, 40, KvDType::kF32},
                               Shape{7, 1, 32, 8, 0, KvDType::kQ8_0}, Shape{3, 3, 40, 64, 0, KvDType::kBF16},
                               Shape{4, 1, 128, 32, 0, KvDType::kQ8_0});
  constexpr std::uint32_t kLength = 560;
  for (const CpuTarget target : available_cpu_targets()) {
    INFO(to_string(target) << ", heads " << shape.heads << "/" << shape.kv_heads << ", KV type "
                           << static_cast<int>(shape.dtype));
    const AttentionKernels& kernels = attention_kernels(target);
    const Fixture fixture(shape, kLength, kernels);
    const std::size_t stride = std::size_t{shape.heads} * shape.head_dim;
    const std::vector<float> all = fixture.attend(kernels, 0, kLength, 1);
    for (const auto& [first, tokens] : std::vector<std::pair<std::uint32_t, std::uint32_t>>{
             {0, 1}, {255, 1}, {256, 1}, {559, 1}, {250, 7}, {500, 60}, {3, 2}, {511, 5}}) {
      for (const std::uint32_t threads : {1u, 3u}) {
        INFO("tokens [" << first << ", " << first + tokens << "), " << threads << " threads");
        const std::vector<float> some = fixture.attend(kernels, first, tokens, threads);
        const auto begin = all.begin() + static_cast<std::ptrdiff_t>(first * stride);
        CHECK(std::equal(some.begin(), some.end(), begin));
      }
    }
  }
}

TEST_CASE("attention: in bfloat16 a prompt stays close to a double-precision softmax, in tiles of any size") {
  const Shape shape =
      GENERATE(Shape{9, 3, 64, 16, 0, KvDType::kF16}, Shape{4, 2, 64, 16, 40, KvDType::kF16},
               Shape{7, 1, 32, 8, 300, KvDType::kQ8_0}, Shape{4, 2, 64, 8, 0, KvDType::kF16},
               Shape{3, 3, 96, 64, 0, KvDType::kBF16}, Shape{4, 1, 128, 32, 0, KvDType::kQ8_0},
               Shape{100, 1, 32, 16, 0, KvDType::kF16});
  constexpr std::uint32_t kLength = 560;
  for (const CpuTarget target : available_cpu_targets()) {
    const PromptKernels* prompt = prompt_kernels(target, ExecutionMode::kPerformance);
    if (prompt == nullptr) continue;
    INFO(to_string(target) << ", heads " << shape.heads << "/" << shape.kv_heads << ", KV type "
                           << static_cast<int>(shape.dtype));
    const AttentionKernels& kernels = attention_kernels(target);
    const Fixture fixture(shape, kLength, kernels);
    REQUIRE(can_attend_rounded(fixture.layout));
    const std::size_t stride = std::size_t{shape.heads} * shape.head_dim;
    const std::vector<float> all = fixture.attend(kernels, 0, kLength, 1, prompt);
    double worst = 0;
    for (std::uint32_t position : {0u, 1u, 15u, 16u, 17u, 255u, 256u, 257u, 511u, 512u, 559u}) {
      for (std::uint32_t head = 0; head < shape.heads; head += std::max(1u, shape.heads / 4)) {
        const std::vector<double> expected = fixture.reference(position, head);
        const float* got = all.data() + (std::size_t{position} * shape.heads + head) * shape.head_dim;
        for (std::uint32_t i = 0; i < shape.head_dim; ++i) {
          const double error = std::abs(got[i] - expected[i]);
          worst = error <= worst ? worst : error;  // NaN counts as worst
        }
      }
    }
    CHECK(worst < 5e-2);
    for (const auto& [first, tokens] : std::vector<std::pair<std::uint32_t, std::uint32_t>>{
             {0, 1}, {255, 1}, {256, 1}, {559, 1}, {250, 7}, {500, 60}, {3, 2}, {511, 5}}) {
      for (const std::uint32_t threads : {1u, 3u}) {
        INFO("tokens [" << first << ", " << first + tokens << "), " << threads << " threads");
        const std::vector<float> some = fixture.attend(kernels, first, tokens, threads, prompt);
        const auto begin = all.begin() + static_cast<std::ptrdiff_t>(first * stride);
        CHECK(std::equal(some.begin(), some.end(), begin));
      }
    }
  }
}

TEST_CASE("attention: exponentials are within 1e-6 relative, and nothing is left below the smallest power") {
  for (const CpuTarget target : available_cpu_targets()) {
    INFO(to_string(target));
    const AttentionKernels& kernels = attention_kernels(target);
    std::vector<float> x(1 << 16), two(x.size()), e(x.size());
    for (std::size_t i = 0; i < x.size(); ++i)
      x[i] = -80.0f + 160.0f * static_cast<float>(i) / static_cast<float>(x.size());
    kernels.exp2(x.data(), two.data(), x.size());
    kernels.exp(x.data(), e.data(), x.size());
    double worst_two = 0, worst_e = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      worst_two = std::max(worst_two, std::abs(two[i] / std::exp2(double{x[i]}) - 1));
      worst_e = std::max(worst_e, std::abs(e[i] / std::exp(double{x[i]}) - 1));
    }
    CHECK(worst_two < 1e-6);
    CHECK(worst_e < 1e-6);
    const float edge[16] = {0, -126.5f, -1000, -INFINITY, 1};
    float out[16];
    kernels.exp2(edge, out, 16);
    CHECK(out[0] == 1.0f);
    CHECK(out[1] == 0.0f);
    CHECK(out[2] == 0.0f);
    CHECK(out[3] == 0.0f);
    CHECK(out[4] == 2.0f);
  }
}

}  // namespace spillway::gpu::host
