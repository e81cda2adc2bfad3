// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda/matmul.hpp"

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
      SkinnyParams p;
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
      std::vector<double> expected(tokens * rows);
      for (std::size_t t = 0; t < tokens; ++t) {
        for (std::size_t r = 0; r < rows; ++r) {
          const double gate = both[t * 2 * rows + r];
          expected[t * rows + r] = gate / (1 + std::exp(-gate)) * both[t * 2 * rows + rows + r];
        }
      }
      CHECK(distance(first(gated.read(), tokens * rows), expected) < 2 * tolerance(element));
    }
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
