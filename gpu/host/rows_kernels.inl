// SPDX-License-Identifier: Apache-2.0

// The kernels of rows_kernels.hpp, compiled once per instruction set by the file that includes this.

#include "gpu/host/rows_kernels.hpp"
#include "gpu/host/vec16.hpp"

namespace spillway::gpu::host {
namespace {

using model::Activation;

/// x[0, n) with `fill` in the other lanes; n <= 16.
SPW_INLINE V16 load_some(const float* x, std::size_t n, float fill = 0) {
  if (n >= 16) return load16(x);
  float lanes[16];
  for (std::size_t i = 0; i < 16; ++i) lanes[i] = i < n ? x[i] : fill;
  return load16(lanes);
}
SPW_INLINE void store_some(float* x, V16 v, std::size_t n) {
  if (n >= 16) return store16(x, v);
  float lanes[16];
  store16(lanes, v);
  for (std::size_t i = 0; i < n; ++i) x[i] = lanes[i];
}

/// Sums over [0, n) in four interleaved vectors, so that additions do not wait for each other.
template <class F>
SPW_INLINE float sum_over(std::size_t n, F&& f) {
  V16 s[4] = {zero16(), zero16(), zero16(), zero16()};
  std::size_t i = 0;
  for (; i + 64 <= n; i += 64)
    for (std::size_t j = 0; j < 4; ++j) s[j] = f(i + 16 * j, std::size_t{16}, s[j]);
  for (std::size_t j = 0; i < n; i += 16, ++j) s[j] = f(i, n - i, s[j]);
  return sum_lanes(add16(add16(s[0], s[1]), add16(s[2], s[3])));
}

void rms_norm(const float* x, const float* weight, float eps, float* out, std::size_t n) {
  const float squares = sum_over(n, [x](std::size_t i, std::size_t left, V16 s) {
    const V16 v = load_some(x + i, left);
    return fma16(v, v, s);
  });
  const V16 factor = set16(1.0f / __builtin_sqrtf(squares / static_cast<float>(n) + eps));
  for (std::size_t i = 0; i < n; i += 16) {
    const std::size_t left = n - i;
    store_some(out + i, mul16(mul16(load_some(x + i, left), factor), load_some(weight + i, left)), left);
  }
}

void layer_norm(const float* x, const float* weight, const float* bias, float eps, float* out,
                std::size_t n) {
  const float sum =
      sum_over(n, [x](std::size_t i, std::size_t left, V16 s) { return add16(s, load_some(x + i, left)); });
  const float mean = sum / static_cast<float>(n);
  const V16 center = set16(mean);
  const float squares = sum_over(n, [x, mean, center](std::size_t i, std::size_t left, V16 s) {
    const V16 v = sub16(load_some(x + i, left, mean), center);
    return fma16(v, v, s);
  });
  const V16 factor = set16(1.0f / __builtin_sqrtf(squares / static_cast<float>(n) + eps));
  for (std::size_t i = 0; i < n; i += 16) {
    const std::size_t left = n - i;
    const V16 y = mul16(sub16(load_some(x + i, left), center), factor);
    const V16 b = bias != nullptr ? load_some(bias + i, left) : zero16();
    store_some(out + i, fma16(y, load_some(weight + i, left), b), left);
  }
}

void rotate(float* x, const float* cosine, const float* sine, std::size_t half) {
  for (std::size_t i = 0; i < half; i += 16) {
    const std::size_t left = half - i;
    const V16 a = load_some(x + i, left), b = load_some(x + half + i, left);
    const V16 c = load_some(cosine + i, left), s = load_some(sine + i, left);
    store_some(x + i, sub16(mul16(a, c), mul16(b, s)), left);
    store_some(x + half + i, add16(mul16(b, c), mul16(a, s)), left);
  }
}

void scale(float* x, float factor, std::size_t n) {
  const V16 f = set16(factor);
  for (std::size_t i = 0; i < n; i += 16) store_some(x + i, mul16(load_some(x + i, n - i), f), n - i);
}

void add(float* x, const float* y, std::size_t n) {
  for (std::size_t i = 0; i < n; i += 16) {
    store_some(x + i, add16(load_some(x + i, n - i), load_some(y + i, n - i)), n - i);
  }
}

/// x / (1 + e^-x)
SPW_INLINE V16 silu(V16 x) { return div16(x, add16(set16(1.0f), exp_16(sub16(zero16(), x)))); }

/// 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) = x / (1 + e^(-2 t))
SPW_INLINE V16 gelu_tanh(V16 x) {
  const V16 cubic = mul16(mul16(x, x), x);
  const V16 t = mul16(set16(0.79788456080286536f), fma16(cubic, set16(0.044715f), x));
  return div16(x, add16(set16(1.0f), exp_16(mul16(t, set16(-2.0f)))));
}

/// 0.5 x (1 + erf(x / sqrt(2)))
SPW_INLINE V16 gelu(V16 x) {
  float lanes[16];
  store16(lanes, x);
  for (float& v : lanes) v = 0.5f * v * (1.0f + __builtin_erff(v * 0.70710678118654752f));
  return load16(lanes);
}

template <class F>
SPW_INLINE void map(const float* x, const float* up, float* out, std::size_t n, F&& f) {
  for (std::size_t i = 0; i < n; i += 16) {
    const std::size_t left = n - i;
    V16 y = f(load_some(x + i, left));
    if (up != nullptr) y = mul16(y, load_some(up + i, left));
    store_some(out + i, y, left);
  }
}

void gated(Activation act, const float* gate, const float* up, float* out, std::size_t n) {
  switch (act) {
    case Activation::kSilu:
      return map(gate, up, out, n, [](V16 x) { return silu(x); });
    case Activation::kRelu:
      return map(gate, up, out, n, [](V16 x) { return max16(x, zero16()); });
    case Activation::kGelu:
      return map(gate, up, out, n, [](V16 x) { return gelu(x); });
    case Activation::kGeluTanh:
      return map(gate, up, out, n, [](V16 x) { return gelu_tanh(x); });
  }
}

void activate(Activation act, const float* x, float* out, std::size_t n) { gated(act, x, nullptr, out, n); }

LogitScan scan(const float* logits, std::size_t n) {
  V16 top = set16(-__builtin_inff());
  unsigned nan = 0;
  for (std::size_t i = 0; i < n; i += 16) {
    const V16 x = load_some(logits + i, n - i, -__builtin_inff());
    nan |= mask_nan16(x);
    top = max16(top, x);
  }
  LogitScan result;
  result.maximum = max_lanes(top);
  result.has_nan = nan != 0;
  for (std::size_t i = 0; i < n; i += 16) {
    const V16 x = load_some(logits + i, n - i, -__builtin_inff());
    const unsigned below = mask_gt16(set16(result.maximum), x);
    if (below == 0xffffu) continue;
    for (std::size_t j = i; j < n; ++j) {
      if (logits[j] == result.maximum) {
        result.argmax = static_cast<std::uint32_t>(j);
        return result;
      }
    }
  }
  return result;
}

double sum_exp(const float* x, float maximum, float factor, double* sums, std::size_t n) {
  const V16 top = set16(maximum), f = set16(factor);
  double total = 0;
  for (std::size_t begin = 0; begin < n; begin += kSumBlock) {
    const std::size_t end = begin + kSumBlock < n ? begin + kSumBlock : n;
    V16 s = zero16();
    for (std::size_t i = begin; i < end; i += 16) {
      s = add16(s, exp_16(mul16(sub16(load_some(x + i, end - i, -__builtin_inff()), top), f)));
    }
    const double block = sum_lanes(s);
    if (sums != nullptr) sums[begin / kSumBlock] = block;
    total += block;
  }
  return total;
}

std::size_t above(const float* x, float limit, std::size_t n, std::uint32_t* out, std::size_t most) {
  const V16 bound = set16(limit);
  std::size_t found = 0;
  for (std::size_t i = 0; i < n; i += 16) {
    unsigned bits = mask_gt16(load_some(x + i, n - i, -__builtin_inff()), bound);
    for (; bits != 0; bits &= bits - 1, ++found) {
      if (found < most)
        out[found] = static_cast<std::uint32_t>(i) + static_cast<std::uint32_t>(__builtin_ctz(bits));
    }
  }
  return found;
}

constexpr RowKernels kKernels = {rms_norm, layer_norm, rotate, scale,   add,
                                 gated,    activate,   scan,   sum_exp, above};

}  // namespace
}  // namespace spillway::gpu::host
