// SPDX-License-Identifier: Apache-2.0
// All matrix products of one SmolLM2-135M step, on random weights of its shapes and types, beside the limits
// of this machine measured in the same run: read bandwidth and int8 dot products. One JSON line per
// measurement.
//
//   bench_matmul [--threads N] [--target scalar|avx2|avx512vnni|...] [--rows M]

#include <immintrin.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "gpu/host/matmul.hpp"

using namespace spillway;
using namespace spillway::gpu::host;

namespace {

constexpr std::size_t kHidden = 576, kIntermediate = 1536, kKv = 192, kVocab = 49152, kLayers = 30;
constexpr std::uint32_t kSeed = 1;

double now_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::string cpu_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  }
  return "unknown";
}

/// The best of some rounds: neighbours on the machine only ever add to it.
template <class F>
double best_s(int rounds, F&& f) {
  double best = 1e9;
  for (int i = 0; i < rounds; ++i) {
    const double start = now_s();
    f();
    best = std::min(best, now_s() - start);
  }
  return best;
}

/// Bytes per second at which the team reads a buffer of this size, over and over.
double read_bandwidth(ThreadTeam& team, std::size_t bytes) {
  WeightArena arena(bytes);
  std::byte* const data = arena.allocate(bytes).value();
  std::memset(data, 1, bytes);
  constexpr std::uint32_t kChunk = 64 << 10;
  auto read = [&](TeamMember& member) {
    __m128i sum[4] = {};
    member.for_chunks(static_cast<std::uint32_t>(bytes / kChunk), [&](std::uint32_t chunk) {
      const std::byte* from = data + std::size_t{chunk} * kChunk;
      for (std::size_t i = 0; i < kChunk; i += 64) {
        _mm_prefetch(reinterpret_cast<const char*>(from + i + 6144), _MM_HINT_T0);
        for (std::size_t j = 0; j < 4; ++j) {
          sum[j] = _mm_xor_si128(sum[j], _mm_load_si128(reinterpret_cast<const __m128i*>(from + i + 16 * j)));
        }
      }
    });
    for (__m128i& s : sum) asm volatile("" : "+x"(s));
  };
  team.run(read);
  return static_cast<double>(bytes) / best_s(15, [&] { team.run(read); });
}

/// Multiplications and additions per second of bare dot products on registers; 0 where the target has none.
__attribute__((target("avx512f,avx512vnni"))) void vnni_loop(std::size_t rounds) {
  __m512i sum[12];
  for (auto& s : sum) s = _mm512_setzero_si512();
  __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(5);
  for (std::size_t i = 0; i < rounds; ++i) {
    asm volatile("" : "+v"(a), "+v"(b));
#pragma GCC unroll 12
    for (int j = 0; j < 12; ++j) sum[j] = _mm512_dpbusd_epi32(sum[j], a, b);
  }
  for (auto& s : sum) asm volatile("" : "+v"(s));
}

__attribute__((target("avx2"))) void avx2_loop(std::size_t rounds) {
  __m256i sum[6];
  for (auto& s : sum) s = _mm256_setzero_si256();
  __m256i a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(5);
  for (std::size_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
    for (int j = 0; j < 12; ++j) {
      asm volatile("" : "+x"(a), "+x"(b));  // not hoisted
      sum[j % 6] = _mm256_add_epi16(sum[j % 6], _mm256_maddubs_epi16(a, b));
      asm volatile("" : "+x"(sum[j % 6]));  // not turned into a tree
    }
  }
  for (auto& s : sum) asm volatile("" : "+x"(s));
}

double dot_peak(ThreadTeam& team, CpuTarget target) {
  constexpr std::size_t kRounds = 2'000'000;
  const bool vnni = target == CpuTarget::kAvx512Vnni;
  if (!vnni && target != CpuTarget::kAvx2) return 0;
  auto loop = [&](TeamMember&) { vnni ? vnni_loop(kRounds) : avx2_loop(kRounds); };
  team.run(loop);
  const double ops = 2.0 * (vnni ? 64 : 32) * 12 * kRounds * team.size();
  return ops / best_s(9, [&] { team.run(loop); });
}

struct RandomWeight {
  std::vector<std::byte> bytes;
  model::TensorView view;

  RandomWeight(model::DType dtype, std::size_t rows, std::size_t cols) {
    std::mt19937 random(kSeed);
    const std::size_t block = model::block_bytes(dtype);
    bytes.resize(rows * cols / model::block_elements(dtype) * block);
    for (auto& b : bytes) b = static_cast<std::byte>(random());
    const std::uint16_t scale = 0x2000;  // 2^-7: any finite number will do
    for (std::size_t at = 0; at < bytes.size(); at += block) {
      std::memcpy(&bytes[at], &scale, 2);
      if (dtype == model::DType::kQ4_1) std::memcpy(&bytes[at + 2], &scale, 2);
    }
    view = {"random", dtype, {rows, cols}, bytes};
  }
};

struct Model {
  struct Layer {
    PackedProduct qkv, o, gate_up, down;
  };
  WeightArena arena;
  std::vector<Layer> layers;
  PackedProduct lm_head;

  explicit Model(ThreadTeam& team) {
    const RandomWeight q(model::DType::kQ4_1, kHidden, kHidden), kv(model::DType::kQ4_1, kKv, kHidden),
        up(model::DType::kQ4_1, kIntermediate, kHidden), down(model::DType::kQ4_1, kHidden, kIntermediate),
        vocab(model::DType::kQ8_0, kVocab, kHidden);
    auto pack = [&](std::initializer_list<const RandomWeight*> weights) {
      std::vector<ProductPart> parts;
      for (const RandomWeight* weight : weights) parts.push_back({&weight->view, nullptr, {}});
      return PackedProduct::pack(parts, arena, team).value();
    };
    for (std::size_t i = 0; i < kLayers; ++i) {
      layers.push_back({pack({&q, &kv, &kv}), pack({&q}), pack({&up, &up}), pack({&down})});
    }
    lm_head = pack({&vocab});
  }
};

struct Step {
  const Model& model;
  const MatmulKernels& kernels;
  std::size_t rows;
  std::size_t lm_head_rows;
  ProductRows hidden, intermediate;
  AlignedRows panels;
  std::vector<float> x, y, logits;

  Step(const Model& m, CpuTarget target, std::uint32_t threads, std::size_t m_rows, std::size_t head_rows)
      : model(m),
        kernels(matmul_kernels(target)),
        rows(m_rows),
        lm_head_rows(head_rows),
        hidden(kernels, rows, kHidden),
        intermediate(kernels, rows, kIntermediate),
        panels(threads, kernels.panel_bytes(kIntermediate)),
        x(rows * kIntermediate),
        y(rows * 2 * kIntermediate),
        logits(lm_head_rows * kVocab) {
    std::mt19937 random(kSeed);
    std::normal_distribution<float> value;
    for (float& v : x) v = value(random);
  }

  void quantize(TeamMember& member, ProductRows& to) {
    const auto [begin, end] = member.share(static_cast<std::uint32_t>(rows));
    for (std::size_t row = begin; row < end; ++row) to.set_row(kernels, &x[row * to.cols()], row);
    member.barrier();
  }

  void run(TeamMember& member, bool quantizes) {
    auto product = [&](const PackedProduct& p, ProductRows& in) {
      if (quantizes) quantize(member, in);
      matmul(member, kernels, p, {&in, nullptr, 0, panels.row(member.index())}, rows, y.data(), p.rows());
      member.barrier();
    };
    for (const Model::Layer& layer : model.layers) {
      product(layer.qkv, hidden);
      product(layer.o, hidden);
      product(layer.gate_up, hidden);
      product(layer.down, intermediate);
    }
    matmul(member, kernels, model.lm_head, {&hidden, nullptr, 0, panels.row(member.index())}, lm_head_rows,
           logits.data(), kVocab);
  }
};

}  // namespace

int main(int argc, char** argv) {
  std::uint32_t threads = 2;
  std::size_t only_rows = 0;
  std::vector<CpuTarget> targets = available_cpu_targets();
  std::erase(targets, CpuTarget::kScalar);  // asked for by name
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string_view option = argv[i];
    if (option == "--threads") threads = static_cast<std::uint32_t>(std::atoi(argv[i + 1]));
    if (option == "--rows") only_rows = static_cast<std::size_t>(std::atoi(argv[i + 1]));
    if (option == "--target") targets = {capped_cpu_target(parse_cpu_target(argv[i + 1]).value())};
  }
  ThreadTeam team(threads);
  const Model model(team);
  const double bytes = static_cast<double>(model.arena.allocated_bytes());
  const double bandwidth = read_bandwidth(team, model.arena.allocated_bytes() / (64 << 10) * (64 << 10));
  const double far_bandwidth = read_bandwidth(team, std::size_t{512} << 20);
  const std::string common = "\"bench\":\"matmul\",\"device\":\"" + cpu_name() +
                             "\",\"threads\":" + std::to_string(threads) +
                             ",\"seed\":" + std::to_string(kSeed);
  std::printf(
      "{%s,\"workload\":\"read\",\"weight_mb\":%.1f,\"gb_per_s\":%.1f,\"gb_per_s_of_512_mib\":%.1f}\n",
      common.c_str(), bytes / 1e6, bandwidth / 1e9, far_bandwidth / 1e9);

  for (CpuTarget target : targets) {
    const double peak = dot_peak(team, target);
    for (std::size_t rows : {1, 2, 4, 8, 16, 32, 64, 512}) {
      if (only_rows != 0 && rows != only_rows) continue;
      const std::size_t head_rows = rows > 64 ? 1 : rows;
      Step step(model, target, threads, rows, head_rows);
      auto run = [&](bool quantizes) { team.run([&](TeamMember& member) { step.run(member, quantizes); }); };
      run(true);
      const int rounds = rows < 64 ? 21 : 5;
      const double seconds = best_s(rounds, [&] { run(false); });
      const double quantize_s = best_s(rounds, [&] { run(true); }) - seconds;
      const double layer_ops = 2.0 * kLayers * kHidden * (2 * kHidden + 2 * kKv + 3 * kIntermediate);
      const double ops =
          layer_ops * static_cast<double>(rows) + 2.0 * kHidden * kVocab * static_cast<double>(head_rows);
      const double limit_s = std::max(bytes / bandwidth, peak > 0 ? ops / peak : 0);
      std::printf(
          "{%s,\"workload\":\"smollm2-135m step\",\"target\":\"%s\",\"rows\":%zu,\"ms\":%.3f,"
          "\"quantize_ms\":%.3f,\"gb_per_s\":%.1f,\"gop_per_s\":%.0f,\"peak_gop_per_s\":%.0f,"
          "\"limit_ms\":%.3f,\"limited_by\":\"%s\",\"share_of_limit\":%.3f}\n",
          common.c_str(), std::string(to_string(target)).c_str(), rows, seconds * 1e3, quantize_s * 1e3,
          bytes / seconds / 1e9, ops / seconds / 1e9, peak / 1e9, limit_s * 1e3,
          limit_s > bytes / bandwidth ? "dot products" : "reads", limit_s / seconds);
      std::fflush(stdout);
    }
  }
  return 0;
}
