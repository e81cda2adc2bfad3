// SPDX-License-Identifier: Apache-2.0
#include "gpu/host/matmul.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "tests/gpu/kernel_sets.hpp"
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
/// What finishes adds to is 0.25.
std::vector<float> multiply(const PackedProduct& product, const KernelSet& target, ThreadTeam& team,
                            const std::vector<float>& x, std::size_t rows, bool with_panel = true,
                            Finish finish = Finish::kStore) {
  const MatmulKernels& kernels = target.kernels;
  const std::size_t cols = product.cols();
  ProductRows quantized(kernels, product.needs_quantized() ? rows : 0, cols);
  AlignedRows panels(with_panel ? team.size() : 0, product.panel_bytes(kernels));
  const Activations activations{&quantized, x.data(), cols};
  const std::size_t outputs = finish == Finish::kGate ? product.rows() / 2 : product.rows();
  const std::size_t stride = outputs + 3;
  const float untouched = finish == Finish::kAdd ? 0.25f : 12345.0f;
  std::vector<float> padded(rows * stride, untouched);
  team.run([&](TeamMember& member) {
    if (product.needs_quantized()) {
      const auto [begin, end] = member.share(static_cast<std::uint32_t>(rows));
      for (std::size_t row = begin; row < end; ++row) quantized.set_row(kernels, &x[row * cols], row);
      member.barrier();
    }
    Activations own = activations;
    if (with_panel) own.panel = panels.row(member.index());
    matmul(member, kernels, product, own, rows, padded.data(), stride, finish);
  });
  std::vector<float> y(rows * outputs);
  bool gaps_untouched = true;
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t i = 0; i < 3; ++i) gaps_untouched &= padded[row * stride + outputs + i] == untouched;
    std::memcpy(&y[row * outputs], &padded[row * stride], outputs * sizeof(float));
  }
  REQUIRE(gaps_untouched);
  return y;
}

/// The activations as blocks of integers represent them.
std::vector<double> quantized_values(const KernelSet& target, const std::vector<float>& x, std::size_t rows,
                                     std::size_t cols) {
  ProductRows quantized(target.kernels, rows, cols);
  std::vector<double> values(x.size());
  for (std::size_t row = 0; row < rows; ++row) {
    quantized.set_row(target.kernels, &x[row * cols], row);
    const std::byte* blocks = quantized.from(row);
    for (std::size_t i = 0; i < cols; ++i) {
      const std::size_t b = i / kBlockCols;
      if (target.has_outliers()) {
        const OutlierBlock& block = reinterpret_cast<const OutlierBlock*>(blocks)[b];
        values[row * cols + i] = quantized_value(block, i % kBlockCols) * double{block.scale};
      } else {
        const QuantizedBlock& block = reinterpret_cast<const QuantizedBlock*>(blocks)[b];
        values[row * cols + i] = quantized_value(block, i % kBlockCols) * double{row_scale(blocks, cols)};
      }
    }
  }
  return values;
}

/// What a product of 16-bit fixed-point numbers may be off: half a step of each activation, one and a half of
/// each weight, and the products of lower bytes.
double fixed_point_error(const std::vector<double>& w, std::span<const double> x) {
  double largest_w = 0, largest_x = 0, allowed = 0;
  for (std::size_t k = 0; k < w.size(); ++k) {
    // A matrix row's largest code need not occur: 16 steps of 4 bits may reach a fifteenth further, twice.
    largest_w = std::max(largest_w, std::abs(w[k]) * 2);
    largest_x = std::max(largest_x, std::abs(x[k]));
  }
  const double step_w = largest_w / 30000, step_x = largest_x / 32512;
  for (std::size_t k = 0; k < w.size(); ++k)
    allowed += std::abs(w[k]) * step_x / 2 + std::abs(x[k]) * step_w * 1.5 + 128 * 128 * step_w * step_x;
  return allowed;
}

struct Errors {
  double tight = 0;  // against the quantized activations, relative to sum |w x|
  double loose = 0;  // against the exact ones, relative to the root of the sum of (w x)^2
};

enum class Form { kFloat, kIntegers, kRounded };

Errors errors_of(const RandomTensor& weight, const std::vector<float>& x, std::size_t rows, Form form,
                 const KernelSet& target, const std::vector<float>& y) {
  std::vector<double> exact(x.begin(), x.end()), used = exact;
  if (form == Form::kIntegers) used = quantized_values(target, x, rows, weight.cols());
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
      double error = std::abs(actual - expected);
      if (form == Form::kRounded) {
        const double allowed = fixed_point_error(w, {&exact[row * w.size()], w.size()});
        error = error <= allowed ? 0 : error;  // NaN stays
      }
      error /= magnitude;
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
  for (const KernelSet& target : all_kernels()) {
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
          for (std::size_t m : {1, 2, 3, 5, 8, 13, 16, 17, 33, 49, 70}) {
            const std::vector<float> x = random_activations(m * cols, static_cast<std::uint32_t>(m));
            const std::vector<float> y = multiply(product.packed, target, team, x, m);
            const Form form = !blocks ? Form::kFloat : target.rounds() ? Form::kRounded : Form::kIntegers;
            const Errors errors = errors_of(weight, x, m, form, target, y);
            INFO(target.name << " " << to_string(dtype) << " " << rows << "x" << cols << " by " << m);
            CHECK(errors.tight < 2e-6);
            CHECK(errors.loose < (!blocks                 ? 1e-5
                                  : target.has_outliers() ? 0.02
                                  : target.rounds()       ? 2e-3
                                                          : 5e-4));
          }
        }
      }
    }
  }
}

TEST_CASE("matmul: a row's result does not depend on the batch, the threads or the chunks") {
  ThreadTeam one(1);
  ThreadTeam three(3);
  for (const KernelSet& target : all_kernels()) {
    for (model::DType dtype : kAllDTypes) {
      const std::size_t cols = 96;
      const std::size_t outputs = 16 * 9 + 5;
      const RandomTensor weight(dtype, outputs, cols, 7);
      const model::TensorView view = weight.view();
      const ProductPart part{&view, nullptr, {}};
      const Product product({&part, 1}, one);
      const std::size_t most = 512;
      const std::vector<float> x = random_activations(most * cols, 3);
      const std::vector<float> whole = multiply(product.packed, target, three, x, most);
      std::vector<std::size_t> batches;
      for (std::size_t m = 2; m <= 33; ++m) batches.push_back(m);
      for (std::size_t m : {47, 48, 49, 64, 65, 80, 128, 257}) batches.push_back(m);
      INFO(target.name << " " << to_string(dtype));
      for (std::size_t m : batches) {
        const std::vector<float> y = multiply(product.packed, target, m % 2 ? one : three, x, m);
        INFO("rows " << m);
        CHECK(same_bits(y.data(), whole.data(), m * outputs));
      }
      bool alone_equals_batched = true;
      for (std::size_t row = 0; row < most; row += 37) {
        const std::vector<float> single(x.begin() + static_cast<std::ptrdiff_t>(row * cols),
                                        x.begin() + static_cast<std::ptrdiff_t>((row + 1) * cols));
        const std::vector<float> y = multiply(product.packed, target, one, single, 1);
        alone_equals_batched &= same_bits(y.data(), &whole[row * outputs], outputs);
      }
      CHECK(alone_equals_batched);
      if (target.rounds()) continue;  // cannot do without
      const std::vector<float> no_panel = multiply(product.packed, target, three, x, most, false);
      CHECK(same_bits(no_panel.data(), whole.data(), most * outputs));
    }
  }
}

TEST_CASE("matmul: weights of any size are as exact as those of the usual") {
  ThreadTeam team(1);
  constexpr std::size_t kCols = 96, kOutputs = 35, kRows = 3;
  const std::vector<float> x = random_activations(kRows * kCols, 9);
  for (model::DType dtype : kAllDTypes) {
    if (model::block_elements(dtype) == 1) continue;
    RandomTensor usual(dtype, kOutputs, kCols, 21);
    usual.scale_by_power_of_two(0);
    for (const int exponent : {-5, -1, 4, 12, 18}) {  // of the scales, which are fp16
      RandomTensor scaled = usual;
      scaled.scale_by_power_of_two(exponent);
      const model::TensorView views[] = {usual.view(), scaled.view()};
      const ProductPart parts[] = {{&views[0], nullptr, {}}, {&views[1], nullptr, {}}};
      const Product a({&parts[0], 1}, team), b({&parts[1], 1}, team);
      for (const KernelSet& target : all_kernels()) {
        const std::vector<float> expected = multiply(a.packed, target, team, x, kRows);
        const std::vector<float> got = multiply(b.packed, target, team, x, kRows);
        bool equal = true;
        for (std::size_t i = 0; i < got.size(); ++i) equal &= std::ldexp(expected[i], exponent) == got[i];
        INFO(target.name << " " << to_string(dtype) << " times 2^" << exponent);
        CHECK(equal);
      }
    }
  }
}

TEST_CASE("matmul: products that finish add to what is there, or gate, as one would afterwards") {
  ThreadTeam one(1), three(3);
  const std::size_t cols = 224, outputs = 83, most = 300;
  const std::vector<float> x = random_activations(most * cols, 4);
  for (const KernelSet& target : all_kernels()) {
    const MatmulKernels& kernels = target.kernels;
    for (model::DType dtype : kAllDTypes) {
      const RandomTensor gate(dtype, outputs, cols, 1), factor(dtype, outputs, cols, 2);
      const model::TensorView views[] = {gate.view(), factor.view()};
      const ProductPart parts[] = {{&views[0], nullptr, {}}, {&views[1], nullptr, {}}};
      const Product both(parts, one);
      INFO(target.name << " " << to_string(dtype));
      REQUIRE(both.packed.can_gate(kernels) == (kernels.finishes && both.packed.needs_quantized()));
      if (!both.packed.can_gate(kernels)) continue;
      const std::vector<float> plain = multiply(both.packed, target, one, x, most);
      for (const std::size_t rows : {1, 16, 17, 32, 40, 64, 65, 300}) {
        ThreadTeam& team = rows % 2 == 0 ? one : three;
        const std::vector<float> sums = multiply(both.packed, target, team, x, rows, true, Finish::kAdd);
        bool added = true;
        for (std::size_t i = 0; i < sums.size(); ++i) added &= sums[i] == 0.25f + plain[i];
        CHECK(added);
        const std::vector<float> gated = multiply(both.packed, target, team, x, rows, true, Finish::kGate);
        double worst = 0;
        for (std::size_t i = 0; i < gated.size(); ++i) {
          const float* row = &plain[i / outputs * 2 * outputs];
          const double g = row[i % outputs], f = row[outputs + i % outputs];
          const double expected = g / (1 + std::exp(-g)) * f;
          const double error = std::abs(gated[i] - expected) / (std::abs(expected) + 1e-12);
          worst = error <= worst ? worst : error;  // NaN counts as worst
        }
        INFO("rows " << rows);
        CHECK(worst < 2e-6);
      }
    }
  }
}

TEST_CASE("matmul: rows and weights of fixed point keep NaN, infinity and zeros apart") {
  ThreadTeam team(1);
  const std::size_t cols = 96, outputs = 20;
  const RandomTensor weight(model::DType::kQ4_1, outputs, cols, 6);
  const model::TensorView view = weight.view();
  const ProductPart part{&view, nullptr, {}};
  const Product product({&part, 1}, team);
  for (const KernelSet& target : all_kernels()) {
    if (!target.rounds()) continue;
    std::vector<float> x = random_activations(4 * cols, 8);
    x[cols + 5] = std::numeric_limits<float>::quiet_NaN();
    x[2 * cols + 7] = std::numeric_limits<float>::infinity();
    std::fill_n(x.begin() + 3 * cols, cols, 0.0f);
    const std::vector<float> y = multiply(product.packed, target, team, x, 4);
    bool right = true;
    for (std::size_t i = 0; i < outputs; ++i) {
      right &= std::isfinite(y[i]) && std::isnan(y[outputs + i]) && !std::isfinite(y[2 * outputs + i]) &&
               y[3 * outputs + i] == 0;
    }
    CHECK(right);
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
  for (const KernelSet& target : all_kernels()) {
    for (std::size_t m : {1, 9}) {
      INFO(target.name << " rows " << m);
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

TEST_CASE("matmul: a NaN or an infinity among the activations reaches the outputs") {
  ThreadTeam team(1);
  const RandomTensor weight(model::DType::kQ4_1, 16, 64, 1);
  const model::TensorView view = weight.view();
  const ProductPart part{&view, nullptr, {}};
  const Product product({&part, 1}, team);
  for (const KernelSet& target : all_kernels()) {
    for (float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      std::vector<float> x = random_activations(64, 2);
      x[40] = bad;
      bool all_bad = true;
      for (float y : multiply(product.packed, target, team, x, 1)) all_bad &= !std::isfinite(y);
      INFO(target.name << " " << bad);
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
