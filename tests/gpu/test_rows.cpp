// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

#include "gpu/host/rows_kernels.hpp"
#include "tests/support/catch.hpp"

namespace spillway::gpu::host {
namespace {

using model::Activation;

std::vector<float> random_row(std::size_t n, unsigned seed, float scale = 2) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.3f, scale);
  std::vector<float> x(n);
  for (float& v : x) v = normal(random);
  return x;
}

double reference(Activation act, double x) {
  switch (act) {
    case Activation::kSilu:
      return x / (1 + std::exp(-x));
    case Activation::kRelu:
      return std::max(x, 0.0);
    case Activation::kGelu:
      return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
    case Activation::kGeluTanh:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
  }
  return 0;
}

const std::vector<std::size_t> kSizes = {1, 15, 16, 17, 60, 64, 65, 576, 1000};

}  // namespace

TEST_CASE("rows: RMS and layer norms equal their formulas for any length, in place too") {
  for (const CpuTarget target : available_cpu_targets()) {
    const RowKernels& kernels = row_kernels(target);
    for (const std::size_t n : kSizes) {
      INFO(to_string(target) << ", " << n << " columns");
      const std::vector<float> x = random_row(n, 1), w = random_row(n, 2), b = random_row(n, 3);
      const double squares = std::inner_product(x.begin(), x.end(), x.begin(), 0.0);
      const double mean = std::accumulate(x.begin(), x.end(), 0.0) / static_cast<double>(n);
      double variance = 0;
      for (const float v : x) variance += (v - mean) * (v - mean);
      variance /= static_cast<double>(n);
      std::vector<float> rms = x, layer(n), plain(n);
      kernels.rms_norm(rms.data(), w.data(), 1e-5f, rms.data(), n);
      kernels.layer_norm(x.data(), w.data(), b.data(), 1e-5f, layer.data(), n);
      kernels.layer_norm(x.data(), w.data(), nullptr, 1e-5f, plain.data(), n);
      for (std::size_t i = 0; i < n; ++i) {
        const double normal = (x[i] - mean) / std::sqrt(variance + 1e-5) * w[i];
        CHECK(rms[i] ==
              Approx(x[i] / std::sqrt(squares / static_cast<double>(n) + 1e-5) * w[i]).epsilon(1e-5));
        CHECK(plain[i] == Approx(normal).epsilon(1e-4).margin(1e-5));
        CHECK(layer[i] == Approx(normal + b[i]).epsilon(1e-4).margin(1e-5));
      }
    }
  }
}

TEST_CASE("rows: rotation turns pair (i, i + half) by its angle") {
  for (const CpuTarget target : available_cpu_targets()) {
    const RowKernels& kernels = row_kernels(target);
    for (const std::size_t half : {1u, 10u, 16u, 32u, 40u}) {
      std::vector<float> x = random_row(2 * half + 3, 4), c(half), s(half);
      const std::vector<float> before = x;
      for (std::size_t i = 0; i < half; ++i)
        c[i] = std::cos(0.1f * static_cast<float>(i)), s[i] = std::sin(0.1f * static_cast<float>(i));
      kernels.rotate(x.data(), c.data(), s.data(), half);
      for (std::size_t i = 0; i < half; ++i) {
        CHECK(x[i] == Approx(before[i] * c[i] - before[half + i] * s[i]).margin(1e-5));
        CHECK(x[half + i] == Approx(before[half + i] * c[i] + before[i] * s[i]).margin(1e-5));
      }
      for (std::size_t i = 2 * half; i < x.size(); ++i) CHECK(x[i] == before[i]);
    }
  }
}

TEST_CASE("rows: activations equal their formulas, also where the exponential saturates") {
  for (const CpuTarget target : available_cpu_targets()) {
    const RowKernels& kernels = row_kernels(target);
    for (const Activation act :
         {Activation::kSilu, Activation::kRelu, Activation::kGelu, Activation::kGeluTanh}) {
      INFO(to_string(target) << ", activation " << static_cast<int>(act));
      std::vector<float> x = random_row(133, 5, 4), up = random_row(133, 6), out(133), gated(133);
      x[0] = -200, x[1] = 200, x[2] = 0, x[3] = -88, x[4] = 88;
      kernels.activate(act, x.data(), out.data(), x.size());
      kernels.gated(act, x.data(), up.data(), gated.data(), x.size());
      for (std::size_t i = 0; i < x.size(); ++i) {
        CHECK(out[i] == Approx(reference(act, x[i])).epsilon(1e-5).margin(1e-6));
        CHECK(gated[i] == Approx(reference(act, x[i]) * up[i]).epsilon(1e-5).margin(1e-5));
      }
    }
  }
}

TEST_CASE("rows: a scan finds the first maximum and every NaN") {
  for (const CpuTarget target : available_cpu_targets()) {
    const RowKernels& kernels = row_kernels(target);
    for (const std::size_t n : kSizes) {
      INFO(to_string(target) << ", " << n << " logits");
      std::vector<float> x = random_row(n, 7);
      x[n / 2] = 100;
      x[n - 1] = 100;
      LogitScan scan = kernels.scan(x.data(), n);
      CHECK(scan.argmax == n / 2);
      CHECK(scan.maximum == 100);
      CHECK_FALSE(scan.has_nan);
      x[n - 1] = NAN;
      CHECK(kernels.scan(x.data(), n).has_nan);
      x[n - 1] = -INFINITY;
      CHECK_FALSE(kernels.scan(x.data(), n).has_nan);
    }
  }
}

TEST_CASE("rows: sums of exponentials and searches above a limit cover every lane once") {
  for (const CpuTarget target : available_cpu_targets()) {
    const RowKernels& kernels = row_kernels(target);
    for (const std::size_t n : {1u, 16u, 511u, 512u, 513u, 1500u}) {
      INFO(to_string(target) << ", " << n << " values");
      const std::vector<float> x = random_row(n, 8);
      double expected = 0;
      std::vector<std::uint32_t> over;
      for (std::size_t i = 0; i < n; ++i) {
        expected += std::exp((double{x[i]} - 3) * 0.5);
        if (x[i] > 1) over.push_back(static_cast<std::uint32_t>(i));
      }
      std::vector<double> sums((n + kSumBlock - 1) / kSumBlock);
      CHECK(kernels.sum_exp(x.data(), 3, 0.5f, sums.data(), n) == Approx(expected).epsilon(1e-5));
      CHECK(std::accumulate(sums.begin(), sums.end(), 0.0) == Approx(expected).epsilon(1e-5));
      std::vector<std::uint32_t> found(n);
      found.resize(kernels.above(x.data(), 1, n, found.data(), n));
      CHECK(found == over);
      std::uint32_t one = 0;
      CHECK(kernels.above(x.data(), 1, n, &one, 1) == over.size());
    }
  }
}

}  // namespace spillway::gpu::host
