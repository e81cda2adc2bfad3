// SPDX-License-Identifier: Apache-2.0
#include "gpu/host/matmul.hpp"

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "tests/gpu/random_weights.hpp"
#include "tests/support/catch.hpp"

using namespace spillway;
using namespace spillway::gpu::host;
using spillway::test::kAllDTypes;
using spillway::test::random_activations;
using spillway::test::RandomTensor;

namespace {

struct Product {
  WeightArena arena{1 << 20};
  PackedProduct packed;

  Product(std::span<const ProductPart> parts, ThreadTeam& team) {
    Result<PackedProduct> result = PackedProduct::pack(parts, arena, team);
    REQUIRE(result.ok());
    packed = std::move(*result);
  }
};

/// y [rows, product.rows()], with quantized and float activations both provided.
std::vector<float> multiply(const PackedProduct& product, CpuTarget target, ThreadTeam& team,
                            const std::vector<float>& x, std::size_t rows,
                            Precision precision = Precision::kInt8) {
  const MatmulKernels& kernels = matmul_kernels(target);
  const std::size_t cols = product.cols();
  QuantizedRows quantized(rows, cols);
  Activations activations{nullptr, 0, x.data(), cols};
  if (product.needs_quantized()) {
    quantized.set_cols(cols, precision);
    activations.quantized = &quantized;
  }
  const std::size_t stride = product.rows() + 3;
  const float untouched = 12345.0f;
  std::vector<float> padded(rows * stride, untouched);
  team.run([&](TeamMember& member) {
    if (product.needs_quantized()) {
      const auto [begin, end] = member.share(static_cast<std::uint32_t>(rows));
      for (std::size_t row = begin; row < end; ++row) quantized.quantize_row(kernels, &x[row * cols], row);
      member.barrier();
    }
    matmul(member, kernels, product, activations, rows, padded.data(), stride);
  });
  std::vector<float> y(rows * product.rows());
  bool gaps_untouched = true;
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t i = 0; i < 3; ++i)
      gaps_untouched &= padded[row * stride + product.rows() + i] == untouched;
    std::memcpy(&y[row * product.rows()], &padded[row * stride], product.rows() * sizeof(float));
  }
  REQUIRE(gaps_untouched);
  return y;
}

/// The activations as blocks of integers represent them.
std::vector<double> quantized_values(const std::vector<float>& x, std::size_t rows, std::size_t cols,
                                     Precision precision) {
  QuantizedRows quantized(rows, cols);
  quantized.set_cols(cols, precision);
  for (std::size_t row = 0; row < rows; ++row)
    quantized.quantize_row(matmul_kernels(CpuTarget::kScalar), &x[row * cols], row);
  const QuantizedBlock* blocks = quantized.row(0);
  std::vector<double> values(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    const QuantizedBlock& block = blocks[i / kBlockCols];
    const int q = precision == Precision::kInt16
                      ? 256 * block.values[i % kBlockCols] + block.residuals[i % kBlockCols]
                      : block.values[i % kBlockCols];
    values[i] = static_cast<double>(q) * block.scale;
  }
  return values;
}

struct Errors {
  double tight = 0;  // against the quantized activations, relative to sum |w x|
  double loose = 0;  // against the exact ones, relative to the root of the sum of (w x)^2
};

Errors errors_of(const RandomTensor& weight, const std::vector<float>& x, std::size_t rows, bool quantized,
                 const std::vector<float>& y, Precision precision = Precision::kInt8) {
  std::vector<double> exact(x.begin(), x.end());
  const std::vector<double> used = quantized ? quantized_values(x, rows, weight.cols(), precision) : exact;
  Errors errors;
  double square = 0;
  double difference = 0;
  for (std::size_t output = 0; output < weight.rows(); ++output) {
    std::vector<double> w(weight.cols());
    for (std::size_t k = 0; k < w.size(); ++k) w[k] = weight.at(output, k);
    for (std::size_t row = 0; row < rows; ++row) {
      double expected = 0, expected_exact = 0, magnitude = 1e-30;
      for (std::size_t k = 0; k < w.size(); ++k) {
        expected += w[k] * used[row * w.size() + k];
        expected_exact += w[k] * exact[row * w.size() + k];
        magnitude += std::abs(w[k] * used[row * w.size() + k]);
        square += std::pow(w[k] * exact[row * w.size() + k], 2);
      }
      const double actual = y[row * weight.rows() + output];
      const double error = std::abs(actual - expected) / magnitude;
      errors.tight = error <= errors.tight ? errors.tight : error;  // NaN counts as worst
      difference += (actual - expected_exact) * (actual - expected_exact);
    }
  }
  errors.loose = std::sqrt(difference / square);
  return errors;
}

bool same_bits(const float* a, const float* b, std::size_t count) {
  return std::memcmp(a, b, count * sizeof(float)) == 0;
}

}  // namespace

TEST_CASE("matmul: every type, shape and target agrees with a double reference") {
  ThreadTeam team(2);
  for (CpuTarget target : available_cpu_targets()) {
    for (model::DType dtype : kAllDTypes) {
      const bool blocks = model::block_elements(dtype) > 1;
      for (std::size_t rows : {1, 15, 16, 17, 49}) {
        for (std::size_t cols :
             blocks ? std::vector<std::size_t>{32, 64, 224} : std::vector<std::size_t>{1, 7, 33, 64}) {
          const RandomTensor weight(dtype, rows, cols, static_cast<std::uint32_t>(rows * 1000 + cols));
          const model::TensorView view = weight.view();
          const ProductPart part{&view, nullptr, {}};
          const Product product({&part, 1}, team);
          REQUIRE(product.packed.needs_quantized() == blocks);
          REQUIRE(product.packed.needs_float() == !blocks);
          for (std::size_t m : {1, 2, 3, 5, 8, 13, 16, 17, 33}) {
            const std::vector<float> x = random_activations(m * cols, static_cast<std::uint32_t>(m));
            for (Precision precision : {Precision::kInt8, Precision::kInt16}) {
              const std::vector<float> y = multiply(product.packed, target, team, x, m, precision);
              const Errors errors = errors_of(weight, x, m, blocks, y, precision);
              const bool fine = precision == Precision::kInt16;
              INFO(to_string(target) << " " << to_string(dtype) << " " << rows << "x" << cols << " by " << m
                                     << (fine ? " int16" : " int8"));
              CHECK(errors.tight < 2e-6);
              CHECK(errors.loose < (!blocks ? 1e-5 : fine ? 2e-4 : 0.05));
            }
          }
        }
      }
    }
  }
}

TEST_CASE("matmul: a row's result does not depend on the batch, the threads or the chunks") {
  ThreadTeam one(1);
  ThreadTeam three(3);
  for (CpuTarget target : available_cpu_targets()) {
    for (model::DType dtype : kAllDTypes) {
      const std::size_t cols = 96;
      const std::size_t outputs = 16 * 9 + 5;
      const RandomTensor weight(dtype, outputs, cols, 7);
      const model::TensorView view = weight.view();
      const ProductPart part{&view, nullptr, {}};
      const Product product({&part, 1}, one);
      const std::size_t most = 512;
      const std::vector<float> x = random_activations(most * cols, 3);
      for (const Precision precision : {Precision::kInt8, Precision::kInt16}) {
        const std::vector<float> whole = multiply(product.packed, target, three, x, most, precision);
        std::vector<std::size_t> batches;
        for (std::size_t m = 2; m <= 33; ++m) batches.push_back(m);
        batches.push_back(64);
        batches.push_back(128);
        INFO(to_string(target) << " " << to_string(dtype) << " precision " << static_cast<int>(precision));
        for (std::size_t m : batches) {
          const std::vector<float> y = multiply(product.packed, target, m % 2 ? one : three, x, m, precision);
          INFO("rows " << m);
          CHECK(same_bits(y.data(), whole.data(), m * outputs));
        }
        bool alone_equals_batched = true;
        for (std::size_t row = 0; row < most; row += 37) {
          const std::vector<float> single(x.begin() + static_cast<std::ptrdiff_t>(row * cols),
                                          x.begin() + static_cast<std::ptrdiff_t>((row + 1) * cols));
          const std::vector<float> y = multiply(product.packed, target, one, single, 1, precision);
          alone_equals_batched &= same_bits(y.data(), &whole[row * outputs], outputs);
        }
        CHECK(alone_equals_batched);
      }
    }
  }
}

namespace {

/// y [rows, product.rows()] by the prompt kernels.
std::vector<float> multiply_rounded(const PackedProduct& product, CpuTarget target, ThreadTeam& team,
                                    const std::vector<float>& x, std::size_t rows) {
  const PromptKernels& prompt = *prompt_kernels(target);
  AlignedRows rounded(rows + kPromptRowsPadding, product.cols() * 2);
  AlignedRows panels(team.size(), product.panel_bytes(prompt));
  for (std::size_t row = 0; row < rows; ++row)
    prompt.round_row(&x[row * product.cols()], product.cols(), rounded.row(row));
  std::vector<float> y(rows * product.rows(), 12345.0f);
  team.run([&](TeamMember& member) {
    Activations activations;
    activations.prompt = &prompt;
    activations.rounded = &rounded;
    activations.panel = panels.row(member.index());
    matmul(member, matmul_kernels(target), product, activations, rows, y.data(), product.rows());
  });
  return y;
}

double bfloat(double x) {
  const float narrow = static_cast<float>(x);
  std::uint32_t bits;
  std::memcpy(&bits, &narrow, sizeof bits);
  bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
  float rounded;
  std::memcpy(&rounded, &bits, sizeof rounded);
  return rounded;
}

}  // namespace

TEST_CASE("matmul: prompts in bfloat16 agree with a double reference, whatever the batch") {
  ThreadTeam one(1);
  ThreadTeam three(3);
  for (CpuTarget target : available_cpu_targets()) {
    if (prompt_kernels(target) == nullptr) continue;
    for (model::DType dtype : kAllDTypes) {
      if (model::block_elements(dtype) == 1) continue;
      for (std::size_t cols : {32, 224}) {
        const std::size_t outputs = 16 * 7 + 5;
        const RandomTensor weight(dtype, outputs, cols, 11);
        const model::TensorView view = weight.view();
        const ProductPart part{&view, nullptr, {}};
        const Product product({&part, 1}, one);
        const std::size_t most = 600;
        const std::vector<float> x = random_activations(most * cols, 5);
        const std::vector<float> whole = multiply_rounded(product.packed, target, three, x, most);
        INFO(to_string(target) << " " << to_string(dtype) << " " << cols << " columns");
        double worst = 0;
        for (std::size_t row = 0; row < most; row += 29) {
          for (std::size_t output = 0; output < outputs; ++output) {
            double expected = 0, magnitude = 1e-30;
            for (std::size_t k = 0; k < cols; ++k) {
              const double term = bfloat(weight.at(output, k)) * bfloat(x[row * cols + k]);
              expected += term;
              magnitude += std::abs(term);
            }
            const double error = std::abs(whole[row * outputs + output] - expected) / magnitude;
            worst = error <= worst ? worst : error;
          }
        }
        CHECK(worst < 1e-4);  // a weight near the middle of two may be rounded from a fused d u + m
        for (std::size_t m : {1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 257}) {
          INFO("rows " << m);
          const std::vector<float> y = multiply_rounded(product.packed, target, m % 2 ? one : three, x, m);
          CHECK(same_bits(y.data(), whole.data(), m * outputs));
        }
      }
    }
  }
}

TEST_CASE("matmul: stacked tensors of different types give the results of each alone, with biases") {
  ThreadTeam team(2);
  const std::size_t cols = 64;
  const RandomTensor q(model::DType::kQ4_1, 33, cols, 1);
  const RandomTensor k(model::DType::kQ8_0, 20, cols, 2);
  const RandomTensor v(model::DType::kF16, 7, cols, 3);
  const RandomTensor q_bias(model::DType::kF32, 1, 33, 4);
  const RandomTensor v_bias(model::DType::kBF16, 1, 7, 5);
  const model::TensorView views[] = {q.view(), k.view(), v.view(), q_bias.view(), v_bias.view(), {}};
  const ProductPart parts[] = {
      {&views[0], &views[3], {}}, {&views[1], &views[5], {}}, {&views[2], &views[4], {}}};
  const Product stacked(parts, team);
  REQUIRE(stacked.packed.rows() == 60);
  REQUIRE(stacked.packed.needs_quantized());
  REQUIRE(stacked.packed.needs_float());
  for (CpuTarget target : available_cpu_targets()) {
    for (std::size_t m : {1, 9}) {
      INFO(to_string(target) << " rows " << m);
      const std::vector<float> x = random_activations(m * cols, 8);
      const std::vector<float> y = multiply(stacked.packed, target, team, x, m);
      std::size_t first = 0;
      for (std::size_t i = 0; i < 3; ++i) {
        const ProductPart bare{parts[i].weight, nullptr, {}};
        const Product alone({&bare, 1}, team);
        const std::vector<float> expected = multiply(alone.packed, target, team, x, m);
        const RandomTensor* bias = i == 0 ? &q_bias : i == 2 ? &v_bias : nullptr;
        const std::size_t outputs = alone.packed.rows();
        bool equal = true;
        for (std::size_t row = 0; row < m; ++row) {
          for (std::size_t j = 0; j < outputs; ++j) {
            const float add = bias == nullptr ? 0.0f : static_cast<float>(bias->at(0, j));
            equal &= y[row * 60 + first + j] == expected[row * outputs + j] + add;
          }
        }
        CHECK(equal);
        first += outputs;
      }
    }
  }
}

TEST_CASE("matmul: activations quantize to the nearest of 255 steps, the same on every target") {
  const std::size_t cols = 96;
  std::vector<float> x = random_activations(cols, 11);
  for (std::size_t i = 32; i < 64; ++i) x[i] = 0;                          // a zero block
  for (std::size_t i = 64; i < 96; ++i) x[i] = i == 70 ? 1e-35f : 1e-38f;  // too small to divide by
  for (CpuTarget target : available_cpu_targets()) {
    INFO(to_string(target));
    QuantizedRows quantized(2, cols);
    quantized.set_cols(cols);
    quantized.quantize_row(matmul_kernels(target), x.data(), 1);
    const QuantizedBlock* blocks = quantized.row(1);
    std::int32_t sum = 0;
    int largest = 0;
    for (std::size_t i = 0; i < 32; ++i) {
      const int value = blocks[0].values[i];
      CHECK(std::abs(value * static_cast<double>(blocks[0].scale) - x[i]) <= 0.5001 * blocks[0].scale);
      sum += value;
      largest = std::max(largest, std::abs(value));
    }
    CHECK(largest == 127);
    CHECK(blocks[0].negative_sum == -sum);
    CHECK(blocks[0].residuals[0] == 0);
    CHECK(blocks[0].scaled_sum == blocks[0].scale * static_cast<float>(sum));
    for (std::size_t b : {1, 2}) {
      CHECK(blocks[b].scale == 0.0f);
      CHECK(blocks[b].negative_sum == 0);
      CHECK(blocks[b].values[6] == 0);
    }
    QuantizedRows reference(2, cols);
    reference.set_cols(cols);
    reference.quantize_row(matmul_kernels(CpuTarget::kScalar), x.data(), 1);
    CHECK(std::memcmp(blocks, reference.row(1), 3 * sizeof(QuantizedBlock)) == 0);
  }
}

TEST_CASE("matmul: a NaN or an infinity among the activations reaches the outputs") {
  ThreadTeam team(1);
  const RandomTensor weight(model::DType::kQ4_1, 16, 64, 1);
  const model::TensorView view = weight.view();
  const ProductPart part{&view, nullptr, {}};
  const Product product({&part, 1}, team);
  for (CpuTarget target : available_cpu_targets()) {
    for (float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      std::vector<float> x = random_activations(64, 2);
      x[40] = bad;
      bool all_bad = true;
      for (float y : multiply(product.packed, target, team, x, 1)) all_bad &= !std::isfinite(y);
      INFO(to_string(target) << " " << bad);
      CHECK(all_bad);
    }
  }
}

TEST_CASE("matmul: tensors that do not fit together are refused by name") {
  ThreadTeam team(1);
  WeightArena arena(1 << 20);
  const RandomTensor a(model::DType::kQ8_0, 16, 64, 1);
  const RandomTensor b(model::DType::kQ8_0, 16, 32, 1);
  const model::TensorView views[] = {a.view(), b.view()};
  SECTION("different columns") {
    const ProductPart parts[] = {{&views[0], nullptr, {}}, {&views[1], nullptr, {}}};
    const Result<PackedProduct> product = PackedProduct::pack(parts, arena, team);
    REQUIRE_FALSE(product.ok());
    CHECK(product.error().code == Errc::kBadFile);
    CHECK(product.error().message.find("32 columns") != std::string::npos);
  }
  SECTION("a bias of the wrong length") {
    const RandomTensor bias(model::DType::kF32, 1, 15, 1);
    model::TensorView bias_view = bias.view();
    const ProductPart parts[] = {{&views[0], &bias_view, {}}};
    const Result<PackedProduct> product = PackedProduct::pack(parts, arena, team);
    REQUIRE_FALSE(product.ok());
    CHECK(product.error().message.find("16 floats") != std::string::npos);
  }
}
