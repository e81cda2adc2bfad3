// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda/attention.hpp"

#include <algorithm>
#include <numeric>

#include "gpu/cuda/launch.hpp"
#include "gpu/cuda/step_inputs.hpp"
#include "tests/gpu/cuda/gpu.hpp"

namespace spillway::gpu::cuda {
namespace {

struct Shape {
  Element element = Element::kBF16;
  int heads = 4, kv_heads = 2, head_dim = 128, block_size = 16, window = 0;
};

struct Span {
  int position = 0, tokens = 1;  // of the step; the context is position + tokens
};

/// A step over a pool of random contents with scattered blocks; the block table has a stranger's entries around.
class Scene {
 public:
  /// `poisoned`: keys and values behind a context's end are no numbers.
  Scene(const Shape& shape, std::vector<Span> spans, unsigned seed, bool poisoned = false)
      : shape_(shape), spans_(std::move(spans)) {
    const int layers = 2, layer = 1;
    const std::size_t layer_elements = static_cast<std::size_t>(2 * shape.kv_heads * shape.block_size * shape.head_dim);
    for (const Span& span : spans_) {
      tables_.push_back(static_cast<int>(num_blocks_));
      num_blocks_ += static_cast<std::size_t>((span.position + span.tokens + shape.block_size - 1) / shape.block_size);
      rows_ += span.tokens;
    }
    table_.resize(num_blocks_);
    std::iota(table_.begin(), table_.end(), 0);
    std::shuffle(table_.begin(), table_.end(), std::mt19937(seed));
    params_.element = shape.element;
    params_.block_elements = static_cast<std::int64_t>(layer_elements * layers);
    params_.layer_offset = static_cast<std::int64_t>(layer_elements * layer);
    params_.block_size = shape.block_size;
    params_.heads = shape.heads;
    params_.kv_heads = shape.kv_heads;
    params_.head_dim = shape.head_dim;
    params_.window = shape.window;
    params_.scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
    std::vector<float> pool = random_values(layer_elements * layers * num_blocks_, seed + 1);
    if (poisoned) poison(pool);
    pool_ = std::make_unique<ElementArray>(shape.element, std::move(pool));
    params_.pool_blocks = static_cast<std::int64_t>(num_blocks_);
    qkv_ = std::make_unique<ElementArray>(
        shape.element,
        random_values(static_cast<std::size_t>(rows_ * (shape.heads + 2 * shape.kv_heads) * shape.head_dim), seed + 2, 2));
    device_table_ = std::make_unique<DeviceArray<std::int32_t>>(table_);
    params_.qkv = qkv_->data();
    params_.pool = pool_->data();
    params_.block_table = device_table_->data();
  }

  [[nodiscard]] AttentionParams params() const { return params_; }
  [[nodiscard]] const std::vector<Span>& spans() const { return spans_; }
  [[nodiscard]] int table(std::size_t span) const { return tables_[span]; }
  [[nodiscard]] int rows() const { return rows_; }
  [[nodiscard]] std::size_t out_size() const { return static_cast<std::size_t>(rows_ * shape_.heads * shape_.head_dim); }

  /// In double: softmax(q.K * scale) V over what each token may see.
  [[nodiscard]] std::vector<double> expected() const {
    std::vector<double> out(out_size());
    const auto dim = static_cast<std::size_t>(shape_.head_dim);
    std::size_t row = 0;
    for (std::size_t s = 0; s < spans_.size(); ++s) {
      for (int t = 0; t < spans_[s].tokens; ++t, ++row) {
        const int position = spans_[s].position + t;
        const int begin = shape_.window > 0 ? std::max(0, position - shape_.window + 1) : 0;
        for (int head = 0; head < shape_.heads; ++head) {
          const float* q = qkv_->values().data() +
                           (row * static_cast<std::size_t>(shape_.heads + 2 * shape_.kv_heads) +
                            static_cast<std::size_t>(head)) *
                               dim;
          std::vector<double> scores;
          for (int key = begin; key <= position; ++key) {
            const float* k = at(s, key, head, 0);
            double dot = 0;
            for (std::size_t i = 0; i < dim; ++i) dot += double{q[i]} * k[i];
            scores.push_back(dot * params_.scale);
          }
          const double maximum = *std::max_element(scores.begin(), scores.end());
          double total = 0;
          for (double& score : scores) total += score = std::exp(score - maximum);
          double* to = out.data() + (row * static_cast<std::size_t>(shape_.heads) + static_cast<std::size_t>(head)) * dim;
          for (int key = begin; key <= position; ++key) {
            const float* v = at(s, key, head, 1);
            const double weight = scores[static_cast<std::size_t>(key - begin)] / total;
            for (std::size_t i = 0; i < dim; ++i) to[i] += weight * v[i];
          }
        }
      }
    }
    return out;
  }

 private:
  /// Of the pool.
  [[nodiscard]] std::size_t offset(std::size_t span, int key, int kv_head, int part) const {
    const std::int64_t block = table_[static_cast<std::size_t>(tables_[span] + key / shape_.block_size)];
    return static_cast<std::size_t>(
        block * params_.block_elements + params_.layer_offset +
        std::int64_t{(part * shape_.kv_heads + kv_head) * shape_.block_size + key % shape_.block_size} * shape_.head_dim);
  }
  [[nodiscard]] const float* at(std::size_t span, int key, int head, int part) const {
    return pool_->values().data() + offset(span, key, head / (shape_.heads / shape_.kv_heads), part);
  }
  void poison(std::vector<float>& pool) const {
    for (std::size_t s = 0; s < spans_.size(); ++s) {
      for (int key = spans_[s].position + spans_[s].tokens; key % shape_.block_size != 0; ++key) {
        for (int i = 0; i < 2 * shape_.kv_heads; ++i)
          std::fill_n(pool.begin() + static_cast<std::ptrdiff_t>(offset(s, key, i / 2, i % 2)), shape_.head_dim, NAN);
      }
    }
  }

  Shape shape_;
  std::vector<Span> spans_;
  std::vector<int> tables_;
  std::vector<std::int32_t> table_;
  std::size_t num_blocks_ = 0;
  int rows_ = 0;
  AttentionParams params_;
  std::unique_ptr<ElementArray> pool_, qkv_;
  std::unique_ptr<DeviceArray<std::int32_t>> device_table_;
};

std::vector<float> run_rows(const Scene& scene, Element element) {
  AttentionParams p = scene.params();
  std::vector<std::int32_t> positions, tables;
  for (std::size_t s = 0; s < scene.spans().size(); ++s) {
    for (int t = 0; t < scene.spans()[s].tokens; ++t) {
      positions.push_back(scene.spans()[s].position + t);
      tables.push_back(scene.table(s));
    }
  }
  const DeviceArray<std::int32_t> device_positions(positions), device_tables(tables);
  const ElementArray out(element, scene.out_size());
  p.out = out.data();
  p.positions = device_positions.data();
  p.tables = device_tables.data();
  p.rows = scene.rows();
  launch_row_attention(p, nullptr);
  finish();
  std::vector<float> values = out.read();
  values.resize(scene.out_size());
  return values;
}

std::vector<float> run_decode(const Scene& scene, Element element, int split) {
  AttentionParams p = scene.params();
  std::vector<DecodeItem> items;
  for (std::size_t s = 0; s < scene.spans().size(); ++s) {
    const int end = scene.spans()[s].position + 1, begin = p.window > 0 ? std::max(0, end - p.window) : 0;
    const auto first = static_cast<std::int32_t>(items.size());
    const std::int32_t count = (end - begin + split - 1) / split;
    for (int from = begin; from < end; from += split)
      items.push_back({static_cast<std::int32_t>(s), scene.table(s), from, std::min(end, from + split), first, count});
  }
  const auto real = static_cast<std::int32_t>(items.size());
  const std::size_t padded = items.size() + 5;  // blocks of a graph that have nothing to do
  items.resize(padded);
  const DeviceArray<DecodeItem> device_items(items);
  const DeviceArray<std::int32_t> num_items(std::vector<std::int32_t>{real});
  const DeviceArray<std::int32_t> arrived(std::vector<std::int32_t>(padded * static_cast<std::size_t>(p.kv_heads), 0));
  const DeviceArray<float> partial_out(padded * static_cast<std::size_t>(p.heads * p.head_dim));
  const DeviceArray<float> partial_lse(padded * static_cast<std::size_t>(p.heads));
  const ElementArray out(element, scene.out_size());
  p.out = out.data();
  p.items = device_items.data();
  p.num_items = num_items.data();
  p.max_items = static_cast<int>(padded);
  p.partial_out = partial_out.data();
  p.partial_lse = partial_lse.data();
  p.arrived = arrived.data();
  launch_decode_attention(p, nullptr);
  launch_decode_attention(p, nullptr);  // again: the counters must be as they were
  finish();
  std::vector<float> values = out.read();
  values.resize(scene.out_size());
  return values;
}

/// In tiles of at most `chunk` queries.
std::vector<float> run_prefill(const Scene& scene, Element element, bool warpgroups = true, int chunk = kPrefillTile) {
  AttentionParams p = scene.params();
  p.warpgroups = warpgroups;
  std::vector<PrefillTile> tiles;
  int row = 0;
  for (std::size_t s = 0; s < scene.spans().size(); ++s) {
    const Span& span = scene.spans()[s];
    for (int t = 0; t < span.tokens; t += chunk)
      tiles.push_back({row + t, std::min(chunk, span.tokens - t), span.position + t, scene.table(s)});
    row += span.tokens;
  }
  const DeviceArray<PrefillTile> device_tiles(tiles);
  const ElementArray out(element, scene.out_size());
  p.out = out.data();
  p.tiles = device_tiles.data();
  p.num_tiles = static_cast<int>(tiles.size());
  launch_prefill_attention(p, nullptr);
  finish();
  std::vector<float> values = out.read();
  values.resize(scene.out_size());
  return values;
}

}  // namespace

TEST_CASE("cuda attention: row by row equals the reference for any type, head size and window") {
  SPW_NEEDS_GPU();
  const Element element = GENERATE(Element::kF32, Element::kF16, Element::kBF16);
  for (const Shape& shape : {Shape{element, 4, 2, 128, 16, 0}, Shape{element, 3, 1, 20, 8, 0}, Shape{element, 6, 2, 16, 32, 7},
                             Shape{element, 2, 2, 256, 64, 33}}) {
    INFO("element " << static_cast<int>(element) << ", head_dim " << shape.head_dim << ", window " << shape.window);
    const Scene scene(shape, {{0, 1}, {0, 37}, {100, 3}, {299, 1}}, 11);
    CHECK(distance(run_rows(scene, element), scene.expected()) < tolerance(element));
  }
}

TEST_CASE("cuda attention: decode equals the reference for any group, head size, length and split") {
  SPW_NEEDS_GPU();
  const Element element = GENERATE(Element::kF16, Element::kBF16);
  for (const int head_dim : {64, 80, 96, 128, 256}) {
    for (const int group : {1, 3, 4, 7, 8}) {
      const Shape shape{element, 2 * group, 2, head_dim, group == 3 ? 32 : 16, group == 7 ? 50 : 0};
      REQUIRE(has_fast_decode(element, head_dim, shape.heads, shape.kv_heads));
      const Scene scene(shape, {{0, 1}, {1, 1}, {30, 1}, {31, 1}, {32, 1}, {63, 1}, {64, 1}, {255, 1}, {700, 1}},
                        static_cast<unsigned>(head_dim + group));
      const std::vector<double> expected = scene.expected();
      for (const int split : {16, 64, 100, 4096}) {
        INFO("head_dim " << head_dim << ", group " << group << ", split " << split);
        CHECK(distance(run_decode(scene, element, split), expected) < tolerance(element));
      }
    }
  }
}

TEST_CASE("cuda attention: decode of one long sequence") {
  SPW_NEEDS_GPU();
  const Scene scene({Element::kBF16, 8, 2, 128, 16, 0}, {{8191, 1}}, 5);
  const std::vector<double> expected = scene.expected();
  CHECK(distance(run_decode(scene, Element::kBF16, 256), expected) < tolerance(Element::kBF16));
  CHECK(distance(run_decode(scene, Element::kBF16, 10000), expected) < tolerance(Element::kBF16));
}

TEST_CASE("cuda attention: prefill equals the reference in whole prompts and chunks") {
  SPW_NEEDS_GPU();
  const Element element = GENERATE(Element::kF16, Element::kBF16);
  for (const int head_dim : {64, 80, 96, 128, 256}) {
    for (const int window : {0, 1, 50, 130}) {
      const Shape shape{element, 4, window == 1 ? 4 : 2, head_dim, window == 50 ? 8 : window == 130 ? 256 : 16, window};
      REQUIRE(has_fast_prefill(element, head_dim));
      const Scene scene(shape, {{0, 2}, {0, 63}, {0, 64}, {0, 65}, {0, 200}, {1, 17}, {64, 64}, {127, 130}, {250, 300}},
                        static_cast<unsigned>(head_dim + window), true);
      const std::vector<double> expected = scene.expected();
      for (const bool warpgroups : {true, false}) {
        INFO("head_dim " << head_dim << ", window " << window << ", warpgroups " << warpgroups);
        CHECK(distance(run_prefill(scene, element, warpgroups), expected) < tolerance(element));
      }
    }
  }
}

TEST_CASE("cuda attention: the tail of a prompt of 8192 tokens") {
  SPW_NEEDS_GPU();
  const Scene scene({Element::kBF16, 2, 1, 128, 16, 0}, {{8100, 92}}, 6);
  const std::vector<double> expected = scene.expected();
  for (const bool warpgroups : {true, false})
    CHECK(distance(run_prefill(scene, Element::kBF16, warpgroups), expected) < tolerance(Element::kBF16));
}

TEST_CASE("cuda attention: a query's result is the same bits in whatever chunk it comes") {
  SPW_NEEDS_GPU();
  if (!has_warpgroup_products()) return;
  for (const int head_dim : {64, 128}) {
    for (const int window : {0, 50}) {
      INFO("head_dim " << head_dim << ", window " << window);
      const Scene scene({Element::kBF16, 4, 2, head_dim, 16, window}, {{0, 401}, {200, 333}}, 7, true);
      const std::vector<float> whole = run_prefill(scene, Element::kBF16);
      for (const int chunk : {1, 37, 100}) CHECK(run_prefill(scene, Element::kBF16, true, chunk) == whole);
    }
  }
}

}  // namespace spillway::gpu::cuda
