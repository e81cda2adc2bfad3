// SPDX-License-Identifier: Apache-2.0

// Attention over slots, the scores that come of it and the victim chosen by them, against a reference in
// double.

#include <array>

#include "gpu/cuda/step_inputs.hpp"
#include "tests/gpu/cuda/slot_scene.hpp"

namespace spillway::gpu::cuda {
namespace {

enum class Kernel { kFast, kRows };

/// Queries of one step over a scene; what attention should give.
struct Queries {
  Queries(const SlotScene& scene, int rows, unsigned seed)
      : values(
            scene.shape().element,
            random_values(static_cast<std::size_t>(rows * (scene.shape().heads + 2 * scene.shape().kv_heads) *
                                                   scene.shape().head_dim),
                          seed, 1.5f)) {}
  [[nodiscard]] const float* at(const SlotShape& shape, int row, int head) const {
    return values.values().data() +
           static_cast<std::ptrdiff_t>((row * (shape.heads + 2 * shape.kv_heads) + head) * shape.head_dim);
  }
  ElementArray values;
};

double scale_of(const SlotShape& shape) { return 1 / std::sqrt(double(shape.head_dim)); }

/// Probabilities of a head's query over a sequence's slots; 0 for what it may not see.
std::vector<double> probabilities(const SlotScene& scene, const Queries& queries, std::size_t s, int layer,
                                  int row, int head, int position, int seen_slots) {
  const SlotShape& shape = scene.shape();
  const SparseSequence& q = scene.sequences()[s];
  const int unit = layer * shape.kv_heads + head / (shape.heads / shape.kv_heads);
  std::vector<double> weights(static_cast<std::size_t>(q.span), 0);
  double total = 0;
  for (int slot = 0; slot < seen_slots; ++slot) {
    const float at = scene.position(scene.bytes, q.table, unit, slot);
    if (at < 0 || (shape.window > 0 && at <= static_cast<float>(position - shape.window))) continue;
    const std::vector<float> key = scene.vector_of(scene.bytes, q.table, unit, slot, 0);
    double dot = 0;
    for (std::size_t i = 0; i < key.size(); ++i) dot += double{queries.at(shape, row, head)[i]} * key[i];
    total += weights[static_cast<std::size_t>(slot)] = std::exp(dot * scale_of(shape));
  }
  for (double& weight : weights) weight /= total;
  return weights;
}

SparseAttentionParams params_of(const SlotScene& scene, const Queries& queries, const ElementArray& out,
                                int layer) {
  const SlotShape& shape = scene.shape();
  SparseAttentionParams p;
  p.element = shape.element;
  p.qkv = queries.values.data();
  p.out = out.data();
  p.slots = scene.slots();
  p.pool = p.slots.pool;
  p.block_elements = scene.block_elements();
  p.pool_blocks = static_cast<std::int64_t>(scene.blocks());
  p.layer_offset = std::int64_t{2} * layer * shape.kv_heads * shape.block_size * shape.head_dim;
  p.block_size = shape.block_size;
  p.block_table = p.slots.block_table;
  p.heads = shape.heads;
  p.kv_heads = shape.kv_heads;
  p.head_dim = shape.head_dim;
  p.window = shape.window;
  p.scale = static_cast<float>(scale_of(shape));
  p.layer = layer;
  return p;
}

void run_decode(SparseAttentionParams p, const SlotScene& scene, int split) {
  std::vector<DecodeItem> items;
  for (std::size_t s = 0; s < scene.sequences().size(); ++s) {
    const SparseSequence& q = scene.sequences()[s];
    const auto first = static_cast<std::int32_t>(items.size());
    for (int from = 0; from < q.span; from += split)
      items.push_back({q.row, q.table, from, std::min(q.span, from + split), first,
                       (q.span + split - 1) / split, static_cast<int>(s)});
  }
  const DeviceArray<std::int32_t> num_items(
      std::vector<std::int32_t>{static_cast<std::int32_t>(items.size())});
  items.resize(items.size() + 5);
  const DeviceArray<DecodeItem> device_items(items);
  const DeviceArray<std::int32_t> arrived(
      std::vector<std::int32_t>(items.size() * static_cast<std::size_t>(p.kv_heads), 0));
  const DeviceArray<float> partial_out(items.size() * static_cast<std::size_t>(p.heads * p.head_dim));
  const DeviceArray<float> partial_lse(items.size() * static_cast<std::size_t>(p.heads));
  p.items = device_items.data();
  p.num_items = num_items.data();
  p.max_items = static_cast<int>(items.size());
  p.partial_out = partial_out.data();
  p.partial_lse = partial_lse.data();
  p.arrived = arrived.data();
  launch_sparse_decode_attention(p, nullptr);
  finish();
  for (const std::int32_t left : arrived.read()) REQUIRE(left == 0);
}

/// Adds sequences of every kind, runs one layer of a step, and holds outputs, scores and victims to the
/// reference.
void check_decode(const SlotShape& shape, Kernel kernel, int split, unsigned seed,
                  const std::vector<int>& spans = {1, 5, 16, 64, 65, 200, 333}) {
  SlotScene scene(shape, seed);
  for (const int span : spans) {
    for (const double holes : {0.0, 0.5, 0.97}) {
      for (const ScoreUpdate update : {ScoreUpdate::kNone, ScoreUpdate::kAdd, ScoreUpdate::kReplace}) {
        SparseSequence& s = scene.add(span, holes);
        s.reuse = holes > 0 ? 1 : 0;
        s.update = static_cast<int>(update);
        s.method = static_cast<int>(update != ScoreUpdate::kNone ? model::SparseMethod::kH2o
                                    : span % 2 == 0              ? model::SparseMethod::kStreaming
                                                                 : model::SparseMethod::kRandom);
        s.first_evictable = 2;
        s.end_evictable = static_cast<float>(2 * span - 1);
        s.evict = s.evicts_early = 1;
        // Inside of the window: all, but where positions are old.
        if (shape.window > 0) s.position = 2 * span;
      }
    }
  }
  scene.upload();
  launch_sparse_place(scene.slots(), 0, nullptr);
  finish();
  scene.bytes = scene.read();  // with the step's token in its slot, of which the keys are random as all are
  const int layer = 1, rows = static_cast<int>(scene.sequences().size());
  const Queries queries(scene, rows, seed + 1);
  const std::size_t out_size = static_cast<std::size_t>(rows * shape.heads * shape.head_dim);
  const ElementArray out(shape.element, out_size);
  const SparseAttentionParams p = params_of(scene, queries, out, layer);
  if (kernel == Kernel::kFast) {
    run_decode(p, scene, split);
  } else {
    launch_sparse_row_attention(p, nullptr);
    finish();
  }
  const std::vector<std::uint8_t> after = scene.read();
  std::vector<float> got = out.read();
  got.resize(out_size);
  std::vector<double> expected(out_size);
  const int group = shape.heads / shape.kv_heads;
  int evicted = 0;
  for (std::size_t s = 0; s < scene.sequences().size(); ++s) {
    const SparseSequence& q = scene.sequences()[s];
    for (int kv_head = 0; kv_head < shape.kv_heads; ++kv_head) {
      const int unit = layer * shape.kv_heads + kv_head;
      std::vector<double> given(static_cast<std::size_t>(q.span), 0);
      for (int head = kv_head * group; head < (kv_head + 1) * group; ++head) {
        const std::vector<double> weights =
            probabilities(scene, queries, s, layer, q.row, head, q.position, q.span);
        for (int slot = 0; slot < q.span; ++slot) {
          given[static_cast<std::size_t>(slot)] += weights[static_cast<std::size_t>(slot)];
          const std::vector<float> value = scene.vector_of(scene.bytes, q.table, unit, slot, 1);
          for (int i = 0; i < shape.head_dim; ++i)
            expected[static_cast<std::size_t>((q.row * shape.heads + head) * shape.head_dim + i)] +=
                weights[static_cast<std::size_t>(slot)] * value[static_cast<std::size_t>(i)];
        }
      }
      const std::vector<float> before = scene.scores(scene.bytes, s, unit),
                               scores = scene.scores(after, s, unit);
      std::vector<float> positions = scene.positions(scene.bytes, s, unit);
      INFO("span " << q.span << ", update " << q.update << ", kv head " << kv_head << ", sequence " << s);
      for (std::size_t slot = 0; slot < given.size(); ++slot) {
        const bool live = positions[slot] >= 0;
        const double now = !live || q.update == 0 ? before[slot]
                           : q.update == 1        ? before[slot] + given[slot]
                                                  : given[slot];
        REQUIRE(std::abs(scores[slot] - now) < 1e-4 * (1 + now));
      }
      // The choice follows from the scores as they are on the device.
      model::SparseKvParams params;
      params.method = static_cast<model::SparseMethod>(q.method);
      params.sinks = 2;
      params.recent = 2;
      for (const std::uint32_t victim :
           choose_victims(params, static_cast<std::uint32_t>(unit), static_cast<std::uint32_t>(2 * q.span), 1,
                          positions, scores)) {
        positions[victim] = kHole;
        ++evicted;
      }
      REQUIRE(scene.positions(after, s, unit) == positions);
    }
    for (int unit = 0; unit < layer * shape.kv_heads; ++unit)  // the other layer's
      REQUIRE(scene.scores(after, s, unit) == scene.scores(scene.bytes, s, unit));
  }
  CHECK(evicted > 0);
  CHECK(distance(got, expected) < tolerance(shape.element));
}

}  // namespace

TEST_CASE(
    "cuda sparse attention: decode over slots, scores and victims equal the reference for any group, head "
    "size and split") {
  SPW_NEEDS_GPU();
  const Element element = GENERATE(Element::kF16, Element::kBF16);
  for (const int head_dim : {64, 80, 128, 256}) {
    for (const int group : {1, 3, 4, 8}) {
      SlotShape shape{
          element, 2 * group, 2, head_dim, group == 3 ? 8 : group == 4 ? 64 : 16, group == 8 ? 300 : 0, 2};
      REQUIRE(has_fast_decode(element, head_dim, shape.heads, shape.kv_heads));
      for (const int split : {16, 64, 4096}) {
        INFO("head_dim " << head_dim << ", group " << group << ", split " << split << ", window "
                         << shape.window);
        check_decode(shape, Kernel::kFast, split, static_cast<unsigned>(head_dim + group + split));
      }
    }
  }
}

TEST_CASE("cuda sparse attention: decode where a unit's slots just fit a block's shared memory, or do not") {
  SPW_NEEDS_GPU();
  for (const int group : {1, 2, 4, 7}) {
    INFO("group " << group);
    check_decode({Element::kBF16, 2 * group, 2, 64, 16, 0, 2}, Kernel::kFast, 4096, 7,
                 {511, 512, 513, 1023, 1024, 1025, 2060});
  }
}

TEST_CASE("cuda sparse attention: decode of one shape of each kernel") {
  SPW_NEEDS_GPU();
  check_decode({Element::kBF16, 2, 2, 128, 16, 0, 2}, Kernel::kFast, 64, 1);
  check_decode({Element::kBF16, 8, 2, 128, 16, 0, 2}, Kernel::kFast, 64, 2);
  check_decode({Element::kF32, 4, 2, 16, 8, 0, 2}, Kernel::kRows, 0, 3);
}

TEST_CASE("cuda sparse attention: the kernel for any type and head size does the same") {
  SPW_NEEDS_GPU();
  const Element element = GENERATE(Element::kF32, Element::kF16, Element::kBF16);
  for (const SlotShape& shape :
       {SlotShape{element, 4, 2, 16, 8, 0, 2}, SlotShape{element, 18, 2, 20, 16, 0, 2},
        SlotShape{element, 3, 3, 256, 32, 300, 2}, SlotShape{element, 2, 1, 7, 64, 0, 2}}) {
    INFO("head_dim " << shape.head_dim << ", window " << shape.window);
    check_decode(shape, Kernel::kRows, 0, static_cast<unsigned>(shape.head_dim));
  }
}

TEST_CASE("cuda sparse attention: exact sequences beside sparsified ones get what they get alone") {
  SPW_NEEDS_GPU();
  for (const int group : {1, 4}) {
    const SlotShape shape{Element::kBF16, 2 * group, 2, 64, 16, group == 1 ? 0 : 77, 2};
    SlotScene scene(shape, 9);
    for (const int span : {1, 64, 300}) scene.add(span, 0);
    scene.upload();
    const Queries queries(scene, 3, 10);
    const std::size_t size = static_cast<std::size_t>(3 * shape.heads * shape.head_dim);
    const ElementArray alone(shape.element, size), beside(shape.element, size);
    std::vector<DecodeItem> items;
    for (const SparseSequence& q : scene.sequences()) {
      const int begin = shape.window > 0 ? std::max(0, q.span - shape.window) : 0;
      items.push_back({q.row, q.table, begin, q.span, static_cast<std::int32_t>(items.size()), 1});
    }
    const DeviceArray<DecodeItem> device_items(items);
    const DeviceArray<std::int32_t> num_items(std::vector<std::int32_t>{3}),
        arrived(std::vector<std::int32_t>(12, 0));
    SparseAttentionParams p = params_of(scene, queries, alone, 0);
    p.items = device_items.data();
    p.num_items = num_items.data();
    p.max_items = 3;
    p.arrived = arrived.data();
    launch_decode_attention(p, nullptr);
    p.out = beside.data();
    launch_sparse_decode_attention(p, nullptr);
    finish();
    CHECK(alone.read() == beside.read());
    CHECK(scene.read() == scene.bytes);
  }
}

TEST_CASE(
    "cuda sparse scores: a prompt's queries give their probabilities to its keys, in chunks as at once") {
  SPW_NEEDS_GPU();
  const Element element = GENERATE(Element::kF32, Element::kBF16, Element::kF16);
  for (const SlotShape& shape :
       {SlotShape{element, 4, 2, 64, 16, 0, 2}, SlotShape{element, 2, 2, 128, 8, 0, 2},
        SlotShape{element, 6, 2, 20, 32, 0, 2}, SlotShape{element, 4, 1, 80, 64, 50, 2},
        SlotShape{element, 3, 3, 96, 16, 0, 2}, SlotShape{element, 2, 1, 256, 16, 0, 2}}) {
    for (const int tokens : {2, 65, 200, 333}) {
      const int layer = 1, group = shape.heads / shape.kv_heads;
      for (const int first : {0, tokens / 2, tokens - 1}) {
        INFO("element " << static_cast<int>(element) << ", head_dim " << shape.head_dim << ", tokens "
                        << tokens << ", from " << first);
        std::vector<std::vector<std::uint8_t>> results;
        std::vector<double> expected;
        for (const int chunk : {tokens, 37}) {
          SlotScene scene(shape, 21);
          SparseSequence& s = scene.add(tokens, 0);
          scene.upload();
          const ElementArray out(shape.element,
                                 static_cast<std::size_t>(tokens * shape.heads * shape.head_dim));
          const Queries queries(scene, tokens, 22);
          SparseAttentionParams p = params_of(scene, queries, out, layer);
          p.window = shape.window;
          for (int at = 0; at < tokens; at += chunk) {
            // One token of a prompt goes as decoding ones do: no chunk ends in one here.
            int count = std::min(chunk, tokens - at);
            if (tokens - at - count == 1) ++count;
            s.row = at;
            s.tokens = count;
            s.position = at;
            s.span = at + count;
            s.update = static_cast<int>(ScoreUpdate::kAdd);
            s.first_scored = std::clamp(first - at, 0, count);
            const DeviceArray<SparseSequence> now(std::vector<SparseSequence>{s});
            p.slots.sequences = now.data();
            if (at == 0) launch_sparse_place(p.slots, count, nullptr);
            std::vector<PrefillTile> tiles;
            for (int t = 0; t < count; t += kPrefillTile)
              tiles.push_back({at + t, std::min(kPrefillTile, count - t), at + t, s.table});
            std::vector<std::int32_t> positions(static_cast<std::size_t>(tokens), 0),
                tables(static_cast<std::size_t>(tokens), -1);
            for (int t = at; t < at + count; ++t)
              positions[static_cast<std::size_t>(t)] = t, tables[static_cast<std::size_t>(t)] = s.table;
            const DeviceArray<PrefillTile> device_tiles(tiles);
            const DeviceArray<std::int32_t> device_positions(positions), device_tables(tables);
            const DeviceArray<float> lse(static_cast<std::size_t>(tokens * shape.heads));
            p.tiles = device_tiles.data();
            p.num_tiles = static_cast<int>(tiles.size());
            p.positions = device_positions.data();
            p.tables = device_tables.data();
            p.rows = tokens;
            p.lse = lse.data();
            if (has_fast_prefill(element, shape.head_dim)) {
              launch_prefill_attention(p, nullptr);
            } else {
              launch_row_attention(p, nullptr);
            }
            if (at > 0) launch_sparse_place(p.slots, count, nullptr);
            if (s.first_scored < s.tokens) launch_sparse_scores(p, std::array{0}, s.span, nullptr);
            finish();
            at += count - std::min(chunk, tokens - at);
          }
          results.push_back(scene.read());
          if (chunk != tokens) {
            // Prefill attention's sums may differ in their last bit where a tile of keys is masked whole for
            // a query.
            const bool exact = !has_fast_prefill(element, shape.head_dim);
            INFO("group " << group << ", window " << shape.window << ", exact " << exact);
            double worst = 0;
            for (int unit = layer * shape.kv_heads; unit < shape.units(); ++unit) {
              const std::vector<float> a = scene.scores(results[0], 0, unit),
                                       b = scene.scores(results[1], 0, unit);
              for (std::size_t i = 0; i < a.size(); ++i)
                worst = std::max(worst, std::abs(double{a[i]} - b[i]) / (1e-3 + a[i]));
            }
            CHECK(worst <= (exact ? 0 : 1e-5));
            continue;
          }
          for (int slot = 0; slot < tokens; ++slot)
            for (int unit = 0; unit < shape.units(); ++unit)
              scene.set_position(s.table, unit, slot, static_cast<float>(slot));
          for (int kv_head = 0; kv_head < shape.kv_heads; ++kv_head) {
            std::vector<double> given(static_cast<std::size_t>(tokens), 0);
            for (int row = first; row < tokens; ++row) {
              for (int head = kv_head * group; head < (kv_head + 1) * group; ++head) {
                const std::vector<double> weights =
                    probabilities(scene, queries, 0, layer, row, head, row, row + 1);
                for (std::size_t i = 0; i < given.size(); ++i) given[i] += weights[i];
              }
            }
            const std::vector<float> scores = scene.scores(results[0], 0, layer * shape.kv_heads + kv_head);
            for (std::size_t i = 0; i < given.size(); ++i)
              REQUIRE(std::abs(scores[i] - given[i]) < 1e-3 * (1 + given[i]));
          }
        }
      }
    }
  }
}

}  // namespace spillway::gpu::cuda
