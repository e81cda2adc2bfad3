// SPDX-License-Identifier: Apache-2.0

// Products with quantized weights, held to the numbers that GGUF's blocks mean.

#include <numeric>

#include "gpu/cuda/launch.hpp"
#include "gpu/cuda/matmul.hpp"
#include "gpu/cuda/quantized_matmul.hpp"
#include "gpu/cuda/rows.hpp"
#include "gpu/cuda/weights.hpp"
#include "tests/gpu/cuda/gpu.hpp"

namespace spillway::gpu::cuda {
namespace {

using model::DType;

constexpr DType kTypes[] = {DType::kQ8_0, DType::kQ4_0, DType::kQ4_1, DType::kQ5_0, DType::kQ5_1};

/// Random blocks as a file has them, scales of about `scale` with either sign.
std::vector<std::uint8_t> random_blocks(DType type, std::size_t blocks, unsigned seed, float scale) {
  std::mt19937 random(seed);
  const std::size_t bytes = model::block_bytes(type);
  std::vector<std::uint8_t> data(blocks * bytes);
  for (std::uint8_t& byte : data) byte = static_cast<std::uint8_t>(random());
  std::normal_distribution<float> normal(0, scale);
  const bool has_minimum = type == DType::kQ4_1 || type == DType::kQ5_1;
  for (std::size_t b = 0; b < blocks; ++b) {
    for (std::size_t i = 0; i < (has_minimum ? 2u : 1u); ++i) {
      const std::uint16_t bits = to_bits(normal(random) * (i == 0 ? 1.0f : 8.0f), Element::kF16);
      std::memcpy(&data[b * bytes + 2 * i], &bits, 2);
    }
  }
  return data;
}

/// What they mean, in double, written after model/tensor.hpp.
std::vector<double> values_of(DType type, const std::vector<std::uint8_t>& data) {
  const std::size_t bytes = model::block_bytes(type);
  std::vector<double> values;
  const auto half = [&](std::size_t at) {
    std::uint16_t bits;
    std::memcpy(&bits, &data[at], 2);
    return double{from_bits(bits, Element::kF16)};
  };
  for (std::size_t at = 0; at < data.size(); at += bytes) {
    for (std::size_t i = 0; i < 32; ++i) {
      const double d = half(at);
      const auto nibble = [&](std::size_t from) { return i < 16 ? data[at + from + i] & 15 : data[at + from + i - 16] >> 4; };
      const auto fifth = [&](std::size_t from) { return (data[at + from + i / 8] >> i % 8 & 1) * 16; };
      switch (type) {
        case DType::kQ8_0: values.push_back(d * static_cast<std::int8_t>(data[at + 2 + i])); break;
        case DType::kQ4_0: values.push_back(d * (nibble(2) - 8)); break;
        case DType::kQ4_1: values.push_back(d * nibble(4) + half(at + 2)); break;
        case DType::kQ5_0: values.push_back(d * (nibble(6) + fifth(2) - 16)); break;
        case DType::kQ5_1: values.push_back(d * (nibble(8) + fifth(4)) + half(at + 2)); break;
        default: FAIL("not a quantized type");
      }
    }
  }
  return values;
}

/// A matrix of random blocks in panels, packed from two tensors (of `split` rows and the rest) in two calls each.
struct Packed128 {
  Packed128(DType type, int rows, int cols, bool gated, unsigned seed) : matrix{type, nullptr, rows, cols, gated} {
    const auto in_row = static_cast<std::size_t>(cols / 32);
    const std::vector<std::uint8_t> data = random_blocks(type, static_cast<std::size_t>(rows) * in_row, seed, 0.02f);
    values = values_of(type, data);
    packed = std::make_unique<DeviceArray<std::uint8_t>>(std::vector<std::uint8_t>(matrix.bytes(), 0));
    matrix.data = packed->data();
    const DeviceArray<std::uint8_t> file(data);
    const int split = gated ? rows / 2 : rows / 3;
    for (const int first : {0, split}) {
      const auto blocks = static_cast<std::int64_t>((first == 0 ? split : rows - split)) * (cols / 32), half = blocks / 2;
      const std::uint8_t* from = file.data() + static_cast<std::size_t>(first) * in_row * model::block_bytes(type);
      if (half > 0) launch_pack(from, matrix, first, 0, half, nullptr);
      launch_pack(from + static_cast<std::size_t>(half) * model::block_bytes(type), matrix, first, half, blocks - half, nullptr);
      finish();
    }
  }
  PackedMatrix matrix;
  std::vector<double> values;  // [rows, cols]
  std::unique_ptr<DeviceArray<std::uint8_t>> packed;
};

/// x w^T + bias with the weight rounded to the element type, as it is multiplied; [tokens, rows].
std::vector<double> product(const std::vector<float>& x, const std::vector<double>& w, const std::vector<float>& bias,
                            Element element, int tokens, int rows, int cols) {
  std::vector<float> rounded(w.size());
  std::transform(w.begin(), w.end(), rounded.begin(),
                 [&](double v) { return from_bits(to_bits(static_cast<float>(v), element), element); });
  std::vector<double> out(static_cast<std::size_t>(tokens) * static_cast<std::size_t>(rows));
  for (int t = 0; t < tokens; ++t) {
    for (int r = 0; r < rows; ++r) {
      const float* a = x.data() + static_cast<std::size_t>(t) * static_cast<std::size_t>(cols);
      const float* b = rounded.data() + static_cast<std::size_t>(r) * static_cast<std::size_t>(cols);
      double sum = bias.empty() ? 0 : double{bias[static_cast<std::size_t>(r)]};
      for (int c = 0; c < cols; ++c) sum += double{a[c]} * b[c];
      out[static_cast<std::size_t>(t) * static_cast<std::size_t>(rows) + static_cast<std::size_t>(r)] = sum;
    }
  }
  return out;
}

std::vector<float> first(std::vector<float> values, std::size_t count) {
  values.resize(count);
  return values;
}

bool multiplies_quantized() {
  if (overlaps_launches()) return true;
  WARN("skipped: this GPU multiplies dequantized weights");
  return false;
}

}  // namespace

TEST_CASE("cuda quantized: packed and unpacked again, every type gives the numbers that the file's blocks mean") {
  SPW_NEEDS_GPU();
  const DType type = GENERATE(from_range(std::begin(kTypes), std::end(kTypes)));
  const bool gated = GENERATE(false, true);
  const Element element = GENERATE(Element::kF16, Element::kBF16);
  for (const auto& [rows, cols] : {std::pair{16, 32}, {130, 96}, {258, 576}, {384, 1056}}) {
    INFO("type " << to_string(type) << ", " << rows << " x " << cols << ", gated " << gated << ", element "
                 << static_cast<int>(element));
    const Packed128 w(type, rows, cols, gated, 7);
    const ElementArray unpacked(element, w.values.size());
    launch_unpack(w.matrix, unpacked.data(), element, nullptr);
    finish();
    const std::vector<float> got = first(unpacked.read(), w.values.size());
    CHECK(distance(got, w.values) < (element == Element::kF16 ? 4e-4 : 3e-3));
    double worst = 0;
    for (std::size_t i = 0; i < got.size(); ++i)
      worst = std::max(worst, std::abs(got[i] - w.values[i]) - std::abs(w.values[i]) * (element == Element::kF16 ? 1e-3 : 8e-3));
    CHECK(worst < 1e-6);
  }
}

TEST_CASE("cuda quantized: a row that is looked up is the row that was packed") {
  SPW_NEEDS_GPU();
  const DType type = GENERATE(from_range(std::begin(kTypes), std::end(kTypes)));
  constexpr int kRows = 300, kCols = 96;
  const Packed128 w(type, kRows, kCols, false, 3);
  std::vector<std::int32_t> tokens(kRows);
  std::iota(tokens.begin(), tokens.end(), 0);
  const DeviceArray<std::int32_t> ids(tokens), from_row(std::vector<std::int32_t>(kRows, -1));
  const DeviceArray<float> x(w.values.size());
  EmbedParams p;
  p.element = Element::kF16;
  p.packed = true;
  p.panels = w.matrix;
  p.tokens = ids.data();
  p.from_row = from_row.data();
  p.x = x.data();
  p.rows = kRows;
  p.cols = kCols;
  launch_embed(p, nullptr);
  finish();
  CHECK(distance(x.read(), w.values) < 4e-4);
}

TEST_CASE("cuda quantized: products equal the reference for every type, batch and shape, again and again") {
  SPW_NEEDS_GPU();
  if (!multiplies_quantized()) return;
  const DType type = GENERATE(from_range(std::begin(kTypes), std::end(kTypes)));
  const Element element = GENERATE(Element::kF16, Element::kBF16);
  const DeviceArray<std::uint8_t> partial(quantized_workspace_bytes());
  const DeviceArray<int> arrived(std::vector<int>(4096, 0));
  for (const auto& [rows, cols] : {std::pair{16, 32}, {130, 96}, {304, 2112}, {1000, 576}, {20000, 64}}) {
    for (const bool gated : {false, true}) {
      const Packed128 w(type, rows, cols, gated, 11);
      for (const int tokens : {1, 3, 8, 9, 16, 17, 33, 64, 100, 200}) {
        if (rows * tokens > 1'000'000 || (tokens > 100 && rows > 500)) continue;
        INFO("type " << to_string(type) << ", element " << static_cast<int>(element) << ", tokens " << tokens << ", " << rows
                     << " x " << cols << ", gated " << gated);
        const auto count = static_cast<std::size_t>(tokens), outputs = static_cast<std::size_t>(gated ? rows / 2 : rows);
        const ElementArray x(element, random_values(count * static_cast<std::size_t>(cols), 1));
        const ElementArray bias(element, random_values(static_cast<std::size_t>(rows), 3));
        const bool biased = tokens % 2 == 0;
        std::vector<double> expected =
            product(x.values(), w.values, biased ? bias.values() : std::vector<float>{}, element, tokens, rows, cols);
        QuantizedParams p;
        p.element = element;
        p.weight = w.matrix;
        p.bias = biased ? bias.data() : nullptr;
        p.x = x.data();
        p.tokens = tokens;
        p.partial = reinterpret_cast<float*>(partial.data());
        p.arrived = arrived.data();
        p.activation = model::Activation::kSilu;
        if (gated) {
          std::vector<double> both(count * outputs);
          for (std::size_t t = 0; t < count; ++t) {
            for (std::size_t r = 0; r < outputs; ++r) {
              const double gate = expected[t * 2 * outputs + r];
              both[t * outputs + r] = gate / (1 + std::exp(-gate)) * expected[t * 2 * outputs + outputs + r];
            }
          }
          expected = std::move(both);
        }
        const ElementArray y(element, count * outputs);
        p.y = y.data();
        launch_quantized(p, nullptr);
        finish();
        const std::vector<float> once = first(y.read(), count * outputs);
        CHECK(distance(once, expected) < (gated ? 2 : 1) * tolerance(element));
        if (!gated) {
          const DeviceArray<float> wide(count * outputs);
          p.y = wide.data();
          p.wide = true;
          launch_quantized(p, nullptr);
          finish();
          // Minima are added to products in fp16 once, where the reference rounds the exact sum: a few last bits differ.
          CHECK(distance(wide.read(), expected) < 5e-5);
          p.wide = false;
        }
        const ElementArray again(element, count * outputs);
        p.y = again.data();
        launch_quantized(p, nullptr);
        finish();
        CHECK(first(again.read(), count * outputs) == once);
      }
    }
  }
}

TEST_CASE("cuda quantized: the chosen product equals the reference before and after its choice by measurement") {
  SPW_NEEDS_GPU();
  if (!multiplies_quantized()) return;
  const Element element = GENERATE(Element::kF16, Element::kBF16);
  Result<std::unique_ptr<Matmul>> matmul = Matmul::create(element);
  REQUIRE(matmul.ok());
  REQUIRE((*matmul)->reserve_quantized(1 << 20).ok());
  cudaStream_t stream = nullptr;
  REQUIRE(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
  const Packed128 w(DType::kQ4_1, 192, 320, false, 5);
  for (const int tokens : {1, 16, 40, 128, 200, 400}) {
    const auto count = static_cast<std::size_t>(tokens);
    const ElementArray x(element, random_values(count * 320, 1)), y(element, count * 192);
    DeviceMatrix matrix;
    matrix.weight = w.matrix.data;
    matrix.rows = 192;
    matrix.cols = 320;
    matrix.packed = true;
    matrix.panels = w.matrix;
    const std::vector<double> expected = product(x.values(), w.values, {}, element, tokens, 192, 320);
    for (const bool tuned : {false, true}) {
      INFO("tokens " << tokens << ", tuned " << tuned);
      if (tuned) (*matmul)->tune({&matrix, 1}, x.data(), tokens, y.data(), false, stream);
      (*matmul)->multiply(matrix, x.data(), tokens, y.data(), false, stream);
      REQUIRE(cudaStreamSynchronize(stream) == cudaSuccess);
      CHECK(distance(first(y.read(), count * 192), expected) < tolerance(element));
    }
    CHECK((*matmul)->status().ok());
  }
  (void)cudaStreamDestroy(stream);
}

}  // namespace spillway::gpu::cuda
