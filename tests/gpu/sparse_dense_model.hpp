// SPDX-License-Identifier: Apache-2.0
#pragma once

// A small Llama with random weights, and what it computes when every KV head of every layer attends to a
// given set of positions: slow, obvious, in double, with neither slots nor blocks. Sparsified sequences are
// held to it.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>
#include <set>
#include <string>
#include <vector>

#include "model/spec.hpp"
#include "tests/gpu/random_weights.hpp"

namespace spillway::gpu {

using model::TokenId;

struct DenseShape {
  int layers = 2, heads = 4, kv_heads = 2, head_dim = 16, hidden = 64, inner = 96, vocab = 128, window = 0;
};

/// Weights are bf16, so that a device of any type has the same ones.
class DenseModel {
 public:
  explicit DenseModel(const DenseShape& shape)
      : shape_(shape), ones_(static_cast<std::size_t>(shape.hidden), 1.0f) {
    spec.architecture = "llama";
    spec.name = "random";
    spec.vocab_size = shape.vocab;
    spec.hidden_size = spec.embedding_size = shape.hidden;
    spec.intermediate_size = shape.inner;
    spec.num_layers = shape.layers;
    spec.num_heads = shape.heads;
    spec.num_kv_heads = shape.kv_heads;
    spec.head_dim = shape.head_dim;
    spec.max_position = 4096;
    spec.sliding_window = shape.window;
    spec.attention_scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
    spec.rope.rotary_dim = shape.head_dim;
    for (int i = 0; i < shape.head_dim / 2; ++i)
      spec.rope.inv_freq.push_back(
          std::pow(10000.0f, -2.0f * static_cast<float>(i) / static_cast<float>(shape.head_dim)));
    const int q = shape.heads * shape.head_dim, kv = shape.kv_heads * shape.head_dim;
    embedding_ = matrix(weights.token_embedding, shape.vocab, shape.hidden);
    head_ = matrix(weights.lm_head, shape.vocab, shape.hidden);
    weights.final_norm = norm();
    weights.layers.resize(static_cast<std::size_t>(shape.layers));
    for (model::LayerWeights& to : weights.layers) {
      Layer layer;
      to.attn_norm = norm();
      to.mlp_norm = norm();
      layer.q = matrix(to.q, q, shape.hidden);
      layer.k = matrix(to.k, kv, shape.hidden);
      layer.v = matrix(to.v, kv, shape.hidden);
      layer.o = matrix(to.o, shape.hidden, q);
      layer.gate = matrix(to.gate, shape.inner, shape.hidden);
      layer.up = matrix(to.up, shape.inner, shape.hidden);
      layer.down = matrix(to.down, shape.hidden, shape.inner);
      layers_.push_back(std::move(layer));
    }
  }
  DenseModel(const DenseModel&) = delete;

  [[nodiscard]] int units() const { return shape_.layers * shape_.kv_heads; }

  model::ModelSpec spec;
  model::Weights weights;

 private:
  friend class DenseSequence;
  struct Matrix {
    std::size_t rows = 0, cols = 0;
    std::vector<double> values;
    [[nodiscard]] std::vector<double> times(const std::vector<double>& x) const {
      std::vector<double> y(rows);
      for (std::size_t r = 0; r < rows; ++r)
        for (std::size_t c = 0; c < cols; ++c) y[r] += values[r * cols + c] * x[c];
      return y;
    }
  };
  struct Layer {
    Matrix q, k, v, o, gate, up, down;
  };

  Matrix matrix(model::TensorView& view, int rows, int cols) {
    tensors_.emplace_back(model::DType::kBF16, static_cast<std::size_t>(rows), static_cast<std::size_t>(cols),
                          ++seed_);
    view = tensors_.back().view();
    Matrix m{static_cast<std::size_t>(rows), static_cast<std::size_t>(cols), {}};
    for (std::size_t r = 0; r < m.rows; ++r)
      for (std::size_t c = 0; c < m.cols; ++c) m.values.push_back(tensors_.back().at(r, c));
    return m;
  }
  model::TensorView norm() {
    return {"norm", model::DType::kF32, {ones_.size()}, std::as_bytes(std::span<const float>(ones_))};
  }

  DenseShape shape_;
  std::vector<float> ones_;
  std::deque<test::RandomTensor> tensors_;  // views point into them
  std::uint32_t seed_ = 0;
  Matrix embedding_, head_;
  std::vector<Layer> layers_;
};

/// One sequence: keys and values of all its tokens, attended to or not.
class DenseSequence {
 public:
  explicit DenseSequence(const DenseModel& model)
      : model_(model), keys_(model.layers_.size()), values_(model.layers_.size()) {}

  /// Computes the next token over the given positions of each unit (itself not among them): `logits` [vocab],
  /// and what it gives each position of each unit, [units][position], summed over the unit's queries.
  void feed(TokenId token, const std::vector<std::set<int>>& attended, std::vector<double>& logits,
            std::vector<std::vector<double>>& given) {
    const DenseShape& shape = model_.shape_;
    const int group = shape.heads / shape.kv_heads, dim = shape.head_dim;
    given.assign(attended.size(), std::vector<double>(static_cast<std::size_t>(fed_) + 1, 0));
    std::vector<double> x(static_cast<std::size_t>(shape.hidden));
    for (std::size_t i = 0; i < x.size(); ++i)
      x[i] = model_.embedding_.values[static_cast<std::size_t>(token) * x.size() + i];
    for (std::size_t l = 0; l < keys_.size(); ++l) {
      const DenseModel::Layer& layer = model_.layers_[l];
      const std::vector<double> normed = norm(x);
      const std::vector<double> q = rotated(layer.q.times(normed));
      keys_[l].push_back(rotated(layer.k.times(normed)));
      values_[l].push_back(layer.v.times(normed));
      std::vector<double> mixed(q.size());
      for (int head = 0; head < shape.heads; ++head) {
        const int kv_head = head / group;
        const std::size_t unit =
            l * static_cast<std::size_t>(shape.kv_heads) + static_cast<std::size_t>(kv_head);
        std::vector<int> seen(attended[unit].begin(), attended[unit].end());
        seen.push_back(fed_);
        if (shape.window > 0)
          std::erase_if(seen, [&](int position) { return position <= fed_ - shape.window; });
        std::vector<double> weights;
        double total = 0;
        for (const int position : seen) {
          double dot = 0;
          for (int i = 0; i < dim; ++i)
            dot += q[static_cast<std::size_t>(head * dim + i)] *
                   keys_[l][static_cast<std::size_t>(position)][static_cast<std::size_t>(kv_head * dim + i)];
          weights.push_back(std::exp(dot / std::sqrt(double(dim))));
          total += weights.back();
        }
        for (std::size_t j = 0; j < seen.size(); ++j) {
          given[unit][static_cast<std::size_t>(seen[j])] += weights[j] / total;
          for (int i = 0; i < dim; ++i)
            mixed[static_cast<std::size_t>(head * dim + i)] +=
                weights[j] / total *
                values_[l][static_cast<std::size_t>(seen[j])][static_cast<std::size_t>(kv_head * dim + i)];
        }
      }
      add(x, layer.o.times(mixed));
      const std::vector<double> after = norm(x);
      std::vector<double> up = layer.up.times(after), gate = layer.gate.times(after);
      for (std::size_t i = 0; i < up.size(); ++i) up[i] *= gate[i] / (1 + std::exp(-gate[i]));
      add(x, layer.down.times(up));
    }
    logits = model_.head_.times(norm(x));
    ++fed_;
  }

 private:
  static void add(std::vector<double>& x, const std::vector<double>& y) {
    for (std::size_t i = 0; i < x.size(); ++i) x[i] += y[i];
  }
  [[nodiscard]] std::vector<double> norm(const std::vector<double>& x) const {
    double squares = 0;
    for (const double v : x) squares += v * v;
    std::vector<double> y(x);
    for (double& v : y) v /= std::sqrt(squares / double(x.size()) + double{model_.spec.norm_eps});
    return y;
  }
  [[nodiscard]] std::vector<double> rotated(std::vector<double> x) const {
    const auto half = static_cast<std::size_t>(model_.shape_.head_dim / 2);
    for (std::size_t head = 0; head < x.size(); head += 2 * half) {
      for (std::size_t i = 0; i < half; ++i) {
        const double angle = fed_ * double{model_.spec.rope.inv_freq[i]};
        const double a = x[head + i], b = x[head + i + half];
        x[head + i] = a * std::cos(angle) - b * std::sin(angle);
        x[head + i + half] = b * std::cos(angle) + a * std::sin(angle);
      }
    }
    return x;
  }

  const DenseModel& model_;
  std::vector<std::vector<std::vector<double>>> keys_, values_;  // [layer][position][kv size]
  int fed_ = 0;
};

}  // namespace spillway::gpu
