// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda/matmul.hpp"

#include <algorithm>

#include "gpu/cuda/batch_matmul.hpp"
#include "gpu/cuda/skinny_matmul.hpp"
#include "tests/gpu/cuda/gpu.hpp"

namespace spillway::gpu::cuda {
namespace {

/// x w^T + bias in double, [tokens, rows].
std::vector<double> product(const std::vector<float>& x, const std::vector<float>& w, const std::vector<float>& bias,
                            std::size_t tokens, std::size_t rows, std::size_t cols) {
  std::vector<double> out(tokens * rows);
  for (std::size_t t = 0; t < tokens; ++t) {
    for (std::size_t r = 0; r < rows; ++r) {
      double sum = bias.empty() ? 0 : bias[r];
      for (std::size_t c = 0; c < cols; ++c) sum += double{x[t * cols + c]} * w[r * cols + c];
      out[t * rows + r] = sum;
    }
  }
  return out;
}

/// [tokens, 2 * rows] of gate, then up, to [tokens, rows].
std::vector<double> gate(const std::vector<double>& both, std::size_t tokens, std::size_t rows) {
  std::vector<double> out(tokens * rows);
  for (std::size_t t = 0; t < tokens; ++t) {
    for (std::size_t r = 0; r < rows; ++r) {
      const double x = both[t * 2 * rows + r];
      out[t * rows + r] = x / (1 + std::exp(-x)) * both[t * 2 * rows + rows + r];
    }
  }
  return out;
}

/// What a product wrote, and that it wrote nothing behind it.
std::vector<float> written(const ElementArray& y, std::size_t count) {
  std::vector<float> all = y.read();
  for (std::size_t i = count; i < all.size(); ++i) REQUIRE(std::isnan(all[i]));
  all.resize(count);
  return all;
}

std::vector<double> prefix(std::vector<double> values, std::size_t count) {
  values.resize(count);
  return values;
}

std::vector<float> first(std::vector<float> values, std::size_t count) {
  values.resize(count);
  return values;
}

}  // namespace

TEST_CASE("cuda matmul: few tokens by our own kernel equal the reference, with bias, in fp32 and gated") {
  SPW_NEEDS_GPU();
  const Element element = GENERATE(Element::kF16, Element::kBF16);
  for (const std::size_t tokens : {1u, 2u, 3u, 8u, 9u, 16u}) {
    using Shape = std::pair<std::size_t, std::size_t>;
    for (const auto& [rows, cols] : {Shape{16, 32}, {49, 576}, {64, 1056}, {5000, 96}, {304, 11008}}) {
      const bool biased = tokens % 2 == 0;
      INFO("element " << static_cast<int>(element) << ", tokens " << tokens << ", " << rows << " x " << cols);
      if (!has_skinny(element, static_cast<int>(rows), static_cast<int>(cols), static_cast<int>(tokens))) {
        WARN("skipped: this GPU has not what our own kernel needs");
        return;
      }
      const ElementArray x(element, random_values(tokens * cols, 1)), w(element, random_values(2 * rows * cols, 2, 0.1f));
      const ElementArray bias(element, random_values(2 * rows, 3));
      const std::vector<float> no_bias;
      Product p;
      p.element = element;
      p.weight = w.data();
      p.bias = biased ? bias.data() : nullptr;
      p.x = x.data();
      p.rows = static_cast<int>(rows);
      p.cols = static_cast<int>(cols);
      p.tokens = static_cast<int>(tokens);
      const std::vector<double> plain =
          product(x.values(), w.values(), biased ? bias.values() : no_bias, tokens, rows, cols);
      const ElementArray y(element, tokens * rows);
      p.y = y.data();
      launch_skinny(p, nullptr);
      finish();
      CHECK(distance(first(y.read(), tokens * rows), plain) < tolerance(element));
      const DeviceArray<float> wide(tokens * rows);
      p.y = wide.data();
      p.wide = true;
      launch_skinny(p, nullptr);
      finish();
      CHECK(distance(wide.read(), plain) < 1e-5);

      const ElementArray gated(element, tokens * rows);
      p.y = gated.data();
      p.wide = false;
      p.gated = true;
      p.activation = model::Activation::kSilu;
      launch_skinny(p, nullptr);
      finish();
      const std::vector<double> both =
          product(x.values(), w.values(), biased ? bias.values() : no_bias, tokens, 2 * rows, cols);
      const std::vector<double> expected = gate(both, tokens, rows);
      CHECK(distance(first(gated.read(), tokens * rows), expected) < 2 * tolerance(element));
    }
  }
}

TEST_CASE("cuda matmul: batches of tokens by every cut of our own kernel equal the reference, with bias, in fp32 and gated") {
  SPW_NEEDS_GPU();
  const Element element = GENERATE(Element::kF16, Element::kBF16);
  constexpr std::size_t kTokens = 128, kBehind = 64;
  using Shape = std::pair<std::size_t, std::size_t>;
  for (const auto& [rows, cols] : {Shape{40, 72}, {264, 200}, {576, 576}, {200, 1544}}) {
    const ElementArray x(element, random_values(kTokens * cols, 1)), w(element, random_values(2 * rows * cols, 2, 0.1f));
    const ElementArray bias(element, random_values(2 * rows, 3));
    const std::vector<float> no_bias;
    const std::vector<double> plain = product(x.values(), w.values(), no_bias, kTokens, rows, cols);
    const std::vector<double> biased = product(x.values(), w.values(), bias.values(), kTokens, rows, cols);
    const std::vector<double> gated = gate(product(x.values(), w.values(), bias.values(), kTokens, 2 * rows, cols), kTokens, rows);
    for (const std::size_t tokens : {9u, 17u, 32u, 63u, 64u, 65u, 100u, 128u}) {
      BatchParams p;
      p.element = element;
      p.weight = w.data();
      p.x = x.data();
      p.rows = static_cast<int>(rows);
      p.cols = static_cast<int>(cols);
      p.tokens = static_cast<int>(tokens);
      const std::vector<BatchCut> cuts = all_batch_cuts(element, p.rows, p.cols, p.tokens);
      if (cuts.empty()) {
        WARN("skipped: this GPU has not what our own kernel needs");
        return;
      }
      for (const BatchCut& cut : cuts) {
        INFO("element " << static_cast<int>(element) << ", tokens " << tokens << ", " << rows << " x " << cols << ", tiles of "
                        << cut.tile_rows << ", splits " << cut.splits);
        p.cut = cut;
        const auto run = [&](const void* with, bool gate_up) {
          const ElementArray y(element, tokens * rows + kBehind);
          p.y = y.data();
          p.bias = with;
          p.wide = false;
          p.gated = gate_up;
          REQUIRE(launch_batch(p, nullptr));
          finish();
          return written(y, tokens * rows);
        };
        CHECK(distance(run(nullptr, false), prefix(plain, tokens * rows)) < tolerance(element));
        CHECK(distance(run(bias.data(), false), prefix(biased, tokens * rows)) < tolerance(element));
        CHECK(distance(run(bias.data(), true), prefix(gated, tokens * rows)) < 2 * tolerance(element));
        const DeviceArray<float> wide(tokens * rows);
        p.y = wide.data();
        p.wide = true;
        p.gated = false;
        REQUIRE(launch_batch(p, nullptr));
        finish();
        CHECK(distance(wide.read(), prefix(biased, tokens * rows)) < 1e-5);
      }
    }
  }
}

TEST_CASE("cuda matmul: a token's results do not depend on its place in a batch, nor on who else is there") {
  SPW_NEEDS_GPU();
  const Element element = Element::kBF16;
  constexpr std::size_t kRows = 192, kCols = 1544, kTokens = 128;
  const std::vector<float> values = random_values(kTokens * kCols, 1), others = random_values(kTokens * kCols, 4, 30.0f);
  const ElementArray w(element, random_values(kRows * kCols, 2));
  for (const BatchCut& cut : all_batch_cuts(element, kRows, kCols, kTokens)) {
    INFO("tiles of " << cut.tile_rows << ", splits " << cut.splits);
    const auto run = [&](const std::vector<float>& tokens) {
      const ElementArray x(element, tokens);
      const DeviceArray<float> y(kTokens * kRows);
      BatchParams p;
      p.element = element;
      p.weight = w.data();
      p.x = x.data();
      p.y = y.data();
      p.rows = kRows;
      p.cols = kCols;
      p.tokens = kTokens;
      p.wide = true;
      p.cut = cut;
      REQUIRE(launch_batch(p, nullptr));
      finish();
      return y.read();
    };
    const std::vector<float> straight = run(values);
    std::vector<float> mixed = others;
    constexpr std::size_t kKept = 40;  // of the tokens, in other places
    for (std::size_t t = 0; t < kKept; ++t)
      std::copy_n(values.begin() + static_cast<std::ptrdiff_t>(t * kCols), kCols,
                  mixed.begin() + static_cast<std::ptrdiff_t>((t * 37 + 50) % kTokens * kCols));
    const std::vector<float> moved = run(mixed);
    for (std::size_t t = 0; t < kKept; ++t)
      for (std::size_t r = 0; r < kRows; ++r)
        REQUIRE(straight[t * kRows + r] == moved[(t * 37 + 50) % kTokens * kRows + r]);
  }
}

TEST_CASE("cuda matmul: every shape gives the reference before and after its algorithm is chosen by measurement") {
  SPW_NEEDS_GPU();
  const Element element = GENERATE(Element::kF32, Element::kF16, Element::kBF16);
  Result<std::unique_ptr<Matmul>> matmul = Matmul::create(element);
  REQUIRE(matmul.ok());
  cudaStream_t stream = nullptr;
  REQUIRE(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
  for (const std::size_t tokens : {1u, 7u, 16u, 40u, 200u}) {
    for (const auto& [rows, cols] : {std::pair<std::size_t, std::size_t>{64, 96}, {192, 64}, {130, 72}}) {
      INFO("element " << static_cast<int>(element) << ", tokens " << tokens << ", " << rows << " x " << cols);
      const ElementArray x(element, random_values(tokens * cols, 1)), w(element, random_values(rows * cols, 2));
      const ElementArray bias(element, random_values(rows, 3)), y(element, tokens * rows);
      const DeviceMatrix matrix{w.data(), bias.data(), static_cast<int>(rows), static_cast<int>(cols)};
      const std::vector<double> expected = product(x.values(), w.values(), bias.values(), tokens, rows, cols);
      const int count = static_cast<int>(tokens);
      (*matmul)->multiply(matrix, x.data(), count, y.data(), false, stream);
      REQUIRE(cudaStreamSynchronize(stream) == cudaSuccess);
      CHECK(distance(first(y.read(), tokens * rows), expected) < tolerance(element));
      (*matmul)->tune({&matrix, 1}, x.data(), count, y.data(), false, stream);
      (*matmul)->multiply(matrix, x.data(), count, y.data(), false, stream);
      REQUIRE(cudaStreamSynchronize(stream) == cudaSuccess);
      CHECK(distance(first(y.read(), tokens * rows), expected) < tolerance(element));
      CHECK((*matmul)->status().ok());
    }
  }
  (void)cudaStreamDestroy(stream);
}

}  // namespace spillway::gpu::cuda
