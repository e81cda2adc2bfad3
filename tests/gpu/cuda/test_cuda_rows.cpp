// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda/rows.hpp"

#include <algorithm>

#include "gpu/cuda/weights.hpp"
#include "tests/gpu/cuda/gpu.hpp"
#include "tests/gpu/random_weights.hpp"

namespace spillway::gpu::cuda {
namespace {

std::vector<float> first(std::vector<float> values, std::size_t count) {
  values.resize(count);
  return values;
}

}  // namespace

TEST_CASE("cuda rows: norms with the residual sum equal the reference") {
  SPW_NEEDS_GPU();
  const Element element = GENERATE(Element::kF32, Element::kF16, Element::kBF16);
  const model::NormKind kind = GENERATE(model::NormKind::kRms, model::NormKind::kLayer);
  const bool post = GENERATE(false, true);
  for (const int cols : {1, 60, 64, 2048, 4096, 5121, 16384}) {
    INFO("cols " << cols << ", post " << post);
    const int rows = 5;
    const auto n = static_cast<std::size_t>(cols), count = n * rows;
    const std::vector<float> x = random_values(count, 1, 3), weight = random_values(n, 2), bias = random_values(n, 3);
    const ElementArray y(element, random_values(count, 4)), out(element, count);
    const DeviceArray<float> device_x(x), device_weight(weight), device_bias(bias);
    NormParams p;
    p.element = element;
    p.kind = kind;
    p.post = post;
    p.eps = 1e-5f;
    p.x = device_x.data();
    p.y = y.data();
    p.weight = device_weight.data();
    p.bias = kind == model::NormKind::kLayer ? device_bias.data() : nullptr;
    p.out = out.data();
    p.rows = rows;
    p.cols = cols;
    launch_norm(p, nullptr);
    finish();
    std::vector<double> sums(count), normed(count);
    for (std::size_t r = 0; r < rows; ++r) {
      double mean = 0, squares = 0;
      for (std::size_t i = r * n; i < (r + 1) * n; ++i) {
        sums[i] = double{x[i]} + y.values()[i];
        if (kind == model::NormKind::kLayer) mean += sums[i] / cols;
      }
      for (std::size_t i = r * n; i < (r + 1) * n; ++i) squares += (sums[i] - mean) * (sums[i] - mean) / cols;
      for (std::size_t i = 0; i < n; ++i) {
        normed[r * n + i] = (sums[r * n + i] - mean) / std::sqrt(squares + 1e-5) * weight[i];
        if (p.bias != nullptr) normed[r * n + i] += bias[i];
      }
    }
    CHECK(distance(first(out.read(), count), normed) < tolerance(element));
    CHECK(distance(first(device_x.read(), count), post ? normed : sums) < 2e-6);
  }
}

TEST_CASE("cuda rows: rotary embedding turns q in place and writes k and v to their slots only") {
  SPW_NEEDS_GPU();
  const Element element = GENERATE(Element::kF32, Element::kBF16);
  const bool interleaved = GENERATE(false, true);
  const bool normed = GENERATE(false, true);
  // A head that is turned in part, and the sizes whose threads take eight pairs at once.
  const auto [dim, half] = GENERATE(std::pair<std::size_t, std::size_t>{20, 8}, std::pair<std::size_t, std::size_t>{64, 32},
                                    std::pair<std::size_t, std::size_t>{80, 40}, std::pair<std::size_t, std::size_t>{256, 128});
  const bool crowded = GENERATE(false, true);  // so many rows that a thread takes several heads
  const std::size_t heads = crowded ? 37 : 3, kv_heads = crowded ? 5 : 2, rows = crowded ? 301 : 4;
  const std::size_t block_size = 8, blocks = crowded ? 48 : 5;
  const std::size_t all = heads + 2 * kv_heads, layer = 2 * kv_heads * block_size * dim, layers = 2;
  const ElementArray qkv(element, random_values(rows * all * dim, 7));
  const ElementArray pool(element, std::vector<float>(blocks * layers * layer, 0.5f));
  std::vector<std::int32_t> positions{0, 1, 77, 4000}, slots{3, 39, -1, 16};
  for (std::size_t r = positions.size(); r < rows; ++r) {
    positions.push_back(static_cast<std::int32_t>(r * 37 % 4001));
    slots.push_back(r % 7 == 0 ? -1 : static_cast<std::int32_t>(r + 36));
  }
  std::vector<float> inv_freq(half);
  for (std::size_t i = 0; i < half; ++i) inv_freq[i] = std::pow(10000.0f, -static_cast<float>(i) / static_cast<float>(half));
  const std::vector<float> weight = random_values(dim, 9);
  const DeviceArray<std::int32_t> device_positions(positions), device_slots(slots);
  const DeviceArray<float> device_freq(inv_freq), device_weight(weight);
  RotaryParams p;
  p.element = element;
  p.qkv = qkv.data();
  p.positions = device_positions.data();
  p.slots = device_slots.data();
  p.inv_freq = device_freq.data();
  p.half = static_cast<int>(half);
  p.interleaved = interleaved;
  p.q_norm = p.k_norm = normed ? device_weight.data() : nullptr;
  p.eps = 1e-6f;
  p.pool = pool.data();
  p.block_elements = static_cast<std::int64_t>(layers * layer);
  p.layer_offset = static_cast<std::int64_t>(layer);
  p.block_size = static_cast<int>(block_size);
  p.rows = static_cast<int>(rows);
  p.heads = static_cast<int>(heads);
  p.kv_heads = static_cast<int>(kv_heads);
  p.head_dim = static_cast<int>(dim);
  launch_rotary(p, nullptr);
  finish();

  std::vector<double> expected_qkv(qkv.values().begin(), qkv.values().end());
  std::vector<double> expected_pool(pool.values().begin(), pool.values().end());
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t h = 0; h < all; ++h) {
      std::vector<double> x(dim);
      double squares = 0;
      for (std::size_t i = 0; i < dim; ++i) {
        x[i] = qkv.values()[(r * all + h) * dim + i];
        squares += x[i] * x[i] / static_cast<double>(dim);
      }
      const bool is_v = h >= heads + kv_heads;
      if (!is_v) {
        for (std::size_t i = 0; i < dim && normed; ++i) x[i] *= weight[i] / std::sqrt(squares + 1e-6);
        for (std::size_t i = 0; i < half; ++i) {
          const double angle = positions[r] * double{inv_freq[i]};
          double &a = x[interleaved ? 2 * i : i], &b = x[interleaved ? 2 * i + 1 : i + half];
          const double turned = a * std::cos(angle) - b * std::sin(angle);
          b = b * std::cos(angle) + a * std::sin(angle);
          a = turned;
        }
      }
      if (h < heads) {
        for (std::size_t i = 0; i < dim; ++i) expected_qkv[(r * all + h) * dim + i] = x[i];
      } else if (slots[r] >= 0) {
        const auto slot = static_cast<std::size_t>(slots[r]);
        const std::size_t kv_head = (h - heads) % kv_heads;
        const std::size_t at = slot / block_size * layers * layer + layer +
                               (((is_v ? kv_heads : 0) + kv_head) * block_size + slot % block_size) * dim;
        for (std::size_t i = 0; i < dim; ++i) expected_pool[at + i] = x[i];
      }
    }
  }
  const double limit = element == Element::kF32 ? 2e-4 : tolerance(element);  // angles of 4000 rad are fp32 products
  CHECK(distance(first(qkv.read(), expected_qkv.size()), expected_qkv) < limit);
  CHECK(distance(first(pool.read(), expected_pool.size()), expected_pool) < limit);
}

TEST_CASE("cuda rows: gathered rows are those that the map names, and others stay") {
  SPW_NEEDS_GPU();
  const std::vector<std::int32_t> map{1, 4, -1, 6, 300};
  for (const std::size_t bytes : {2u, 70u, 16u, 1152u, 16384u}) {
    INFO("rows of " << bytes << " bytes");
    std::vector<std::uint8_t> values(301 * bytes);
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<std::uint8_t>(i * 31 + i / bytes);
    const DeviceArray<std::uint8_t> from(values), to((map.size() + 1) * bytes);
    const DeviceArray<std::int32_t> device_map(map);
    launch_gather({from.data(), to.data(), device_map.data(), static_cast<int>(map.size()), static_cast<int>(bytes)}, nullptr);
    finish();
    std::vector<std::uint8_t> expected((map.size() + 1) * bytes, 0xff);
    for (std::size_t r = 0; r < map.size(); ++r) {
      if (map[r] < 0) continue;
      const auto source = values.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(map[r]) * bytes);
      std::copy_n(source, bytes, expected.begin() + static_cast<std::ptrdiff_t>(r * bytes));
    }
    CHECK(to.read() == expected);
  }
}

TEST_CASE("cuda rows: activations equal the reference") {
  SPW_NEEDS_GPU();
  const Element element = GENERATE(Element::kF32, Element::kF16, Element::kBF16);
  for (const auto activation : {model::Activation::kSilu, model::Activation::kRelu, model::Activation::kGelu,
                                model::Activation::kGeluTanh}) {
    for (const std::size_t cols : {1u, 98u, 100u, 11008u}) {
      for (const bool gated : {false, true}) {
        INFO("activation " << static_cast<int>(activation) << ", cols " << cols << ", gated " << gated);
        const std::size_t rows = 3, stride = cols * (gated ? 2 : 1);
        const ElementArray up(element, random_values(rows * stride, 21, 2)), out(element, rows * cols);
        ActivationParams p{element, activation, gated, up.data(), out.data(), static_cast<int>(rows), static_cast<int>(cols)};
        launch_activation(p, nullptr);
        finish();
        std::vector<double> expected(rows * cols);
        for (std::size_t i = 0; i < expected.size(); ++i) {
          const double x = up.values()[i / cols * stride + i % cols];
          double y = 0;
          switch (activation) {
            case model::Activation::kSilu: y = x / (1 + std::exp(-x)); break;
            case model::Activation::kRelu: y = std::max(x, 0.0); break;
            case model::Activation::kGelu: y = x / 2 * (1 + std::erf(x / std::sqrt(2.0))); break;
            case model::Activation::kGeluTanh:
              y = x / 2 * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
              break;
          }
          expected[i] = gated ? y * up.values()[i / cols * stride + cols + i % cols] : y;
        }
        CHECK(distance(first(out.read(), expected.size()), expected) < tolerance(element));
      }
    }
  }
}

TEST_CASE("cuda rows: every file type means on the device what its format says") {
  SPW_NEEDS_GPU();
  const Element element = GENERATE(Element::kF32, Element::kBF16);
  for (const model::DType dtype : test::kAllDTypes) {
    INFO(to_string(dtype));
    const test::RandomTensor tensor(dtype, 7, 96, 3);
    const model::TensorView view = tensor.view();
    std::vector<std::uint8_t> bytes(view.data.size());
    std::memcpy(bytes.data(), view.data.data(), bytes.size());
    const DeviceArray<std::uint8_t> raw(bytes);
    const ElementArray out(element, 7 * 96);
    launch_convert(raw.data(), dtype, out.data(), element, 7 * 96, nullptr);
    finish();
    std::vector<double> expected;
    for (std::size_t r = 0; r < 7; ++r)
      for (std::size_t c = 0; c < 96; ++c) expected.push_back(tensor.at(r, c));
    CHECK(distance(first(out.read(), expected.size()), expected) < tolerance(element));
  }
}

}  // namespace spillway::gpu::cuda
