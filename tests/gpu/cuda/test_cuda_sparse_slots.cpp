// SPDX-License-Identifier: Apache-2.0
#include <map>

#include "tests/gpu/cuda/slot_scene.hpp"

namespace spillway::gpu::cuda {
namespace {

using model::SparseGranularity;
using model::SparseKvParams;
using model::SparseMethod;

constexpr int kSpans[] = {1, 7, 8, 63, 64, 65, 300, 1025};

SlotShape shape_of_block(int block_size) {
  SlotShape shape;
  shape.block_size = block_size;
  shape.head_dim = block_size == 8 ? 6 : 20;
  shape.kv_heads = block_size == 32 ? 3 : 2;
  shape.element = block_size == 16 ? Element::kF32 : Element::kF16;
  return shape;
}

std::vector<float> summed_scores(const SlotScene& scene, std::size_t s, int first_unit, int units) {
  std::vector<float> sums(static_cast<std::size_t>(scene.sequences()[s].span));
  for (int unit = first_unit; unit < first_unit + units; ++unit) {
    const std::vector<float> scores = scene.scores(scene.bytes, s, unit);
    for (std::size_t i = 0; i < sums.size(); ++i) sums[i] += scores[i];
  }
  return sums;
}

}  // namespace

TEST_CASE("cuda slots: a token takes each head's first hole, noted or not, or the last slot, and has a score of 0") {
  SPW_NEEDS_GPU();
  const int block_size = GENERATE(8, 16, 32, 64);
  SlotScene scene(shape_of_block(block_size), 1);
  for (const int span : kSpans)
    for (const double holes : {0.0, 0.01, 0.5, 1.0})
      for (const int reuse : {0, 1}) scene.add(span, holes).reuse = reuse;
  for (const int span : kSpans) {
    SparseSequence& s = scene.add(span, SlotScene::kOneHole);
    s.reuse = s.one_hole = 1;
  }
  scene.upload();
  launch_sparse_place(scene.slots(), 256, nullptr);
  finish();
  const std::vector<std::uint8_t> after = scene.read();
  const std::vector<SparsePlace> places = scene.places();
  for (std::size_t s = 0; s < scene.sequences().size(); ++s) {
    const SparseSequence& q = scene.sequences()[s];
    for (int unit = 0; unit < scene.shape().units(); ++unit) {
      std::vector<float> expected = scene.positions(scene.bytes, s, unit),
                         scores = scene.scores(scene.bytes, s, unit);
      std::size_t slot = static_cast<std::size_t>(q.span - 1);
      for (std::size_t i = 0; q.reuse != 0 && i < expected.size(); ++i)
        if (expected[i] < 0) slot = std::min(slot, i);
      expected[slot] = static_cast<float>(q.position);
      scores[slot] = 0;
      INFO("span " << q.span << ", reuse " << q.reuse << ", unit " << unit);
      CHECK(scene.positions(after, s, unit) == expected);
      CHECK(scene.scores(after, s, unit) == scores);
      const int layer = unit / scene.shape().kv_heads, kv_head = unit % scene.shape().kv_heads;
      const std::size_t at = (static_cast<std::size_t>(layer) * scene.sequences().size() + s) *
                                 static_cast<std::size_t>(scene.shape().kv_heads) +
                             static_cast<std::size_t>(kv_head);
      CHECK(places[at].slot == static_cast<int>(slot));
      const int in_block = static_cast<int>(slot) % block_size;
      CHECK(places[at].in_pool ==
            scene.table()[static_cast<std::size_t>(q.table) + slot / static_cast<std::size_t>(block_size)] *
                    block_size +
                in_block);
    }
  }
}

TEST_CASE("cuda slots: victims are those of choose_victims, for every method, granularity and count") {
  SPW_NEEDS_GPU();
  const int block_size = GENERATE(8, 64);
  SlotScene scene(shape_of_block(block_size), 2);
  std::vector<SparseKvParams> params;
  for (const int span : kSpans) {
    for (const SparseMethod method : {SparseMethod::kRandom, SparseMethod::kH2o, SparseMethod::kStreaming}) {
      for (const auto granularity :
           {SparseGranularity::kHead, SparseGranularity::kLayer, SparseGranularity::kToken}) {
        for (const int count : {1, 4, 16, span / 2, span}) {
          SparseKvParams p;
          p.method = method;
          p.granularity = granularity;
          p.sinks = 3;
          p.recent = static_cast<std::uint32_t>(span / 4 + 1);
          p.seed = 77;
          SparseSequence& s = scene.add(span, 0.3, granularity != SparseGranularity::kHead);
          const EvictableRange range = evictable(p, static_cast<std::uint32_t>(2 * span - 1));
          s.method = static_cast<int>(method);
          s.granularity = static_cast<int>(granularity);
          s.evict = count;
          s.seed = p.seed;
          s.first_evictable = range.first;
          s.end_evictable = range.end;
          params.push_back(p);
        }
      }
    }
  }
  scene.upload();
  launch_sparse_evict(scene.slots(), 1025, nullptr);
  finish();
  const std::vector<std::uint8_t> after = scene.read();
  for (std::size_t s = 0; s < scene.sequences().size(); ++s) {
    const SparseSequence& q = scene.sequences()[s];
    const SparseKvParams& p = params[s];
    const int units = p.granularity == SparseGranularity::kHead    ? 1
                      : p.granularity == SparseGranularity::kLayer ? scene.shape().kv_heads
                                                                   : scene.shape().units();
    for (int unit = 0; unit < scene.shape().units(); ++unit) {
      const int first = unit / units * units;
      std::vector<float> expected = scene.positions(scene.bytes, s, unit);
      for (const std::uint32_t victim : choose_victims(
               p, static_cast<std::uint32_t>(unit / units), static_cast<std::uint32_t>(2 * q.span - 1),
               static_cast<std::uint32_t>(q.evict), expected, summed_scores(scene, s, first, units)))
        expected[victim] = kHole;
      INFO("method " << q.method << ", granularity " << q.granularity << ", span " << q.span << ", evicts "
                     << q.evict);
      CHECK(scene.positions(after, s, unit) == expected);
      CHECK(scene.scores(after, s, unit) == scene.scores(scene.bytes, s, unit));
    }
  }
}

TEST_CASE("cuda slots: SnapKV's pooling is pool_scores") {
  SPW_NEEDS_GPU();
  SlotScene scene(shape_of_block(16), 3);
  for (const int span : {1, 3, 4, 255, 256, 257, 259, 260, 515, 1025})
    scene.add(span, 0).pools = span == 515 ? 0 : 1;
  scene.upload();
  launch_sparse_pool(scene.slots(), nullptr);
  finish();
  const std::vector<std::uint8_t> after = scene.read();
  for (std::size_t s = 0; s < scene.sequences().size(); ++s) {
    for (int unit = 0; unit < scene.shape().units(); ++unit) {
      std::vector<float> expected = scene.scores(scene.bytes, s, unit);
      if (scene.sequences()[s].pools != 0) pool_scores(expected);
      CHECK(scene.scores(after, s, unit) == expected);
    }
  }
}

TEST_CASE("cuda slots: full blocks without a token in any head are reported, each once") {
  SPW_NEEDS_GPU();
  const int block_size = GENERATE(8, 16, 64);
  std::map<std::pair<int, int>, bool> kept;  // one token in one unit keeps a block
  SlotScene scene(shape_of_block(block_size), 4);
  for (const int span : {1, 64, 200, 300}) scene.add(span, 0.998).frees = 1;
  scene.add(200, 1.0).frees = 0;
  scene.upload();
  for (std::size_t s = 0; s < scene.sequences().size(); ++s) {
    const SparseSequence& q = scene.sequences()[s];
    for (int slot = 0; slot < q.span; ++slot)
      for (int unit = 0; unit < scene.shape().units(); ++unit)
        if (scene.position(scene.bytes, q.table, unit, slot) >= 0) kept[{q.table, slot / block_size}] = true;
  }
  REQUIRE(!kept.empty());
  launch_sparse_emptied(scene.slots(), (300 + block_size - 1) / block_size, nullptr);
  finish();
  const std::vector<std::uint8_t> first = scene.emptied();
  launch_sparse_emptied(scene.slots(), (300 + block_size - 1) / block_size, nullptr);
  finish();
  const std::vector<std::uint8_t> second = scene.emptied();
  int reported = 0;
  for (const SparseSequence& q : scene.sequences()) {
    for (int block = 0; block < (q.span + block_size - 1) / block_size; ++block) {
      const auto at = static_cast<std::size_t>(q.table + block);
      const bool full = block < q.span / block_size;
      INFO("span " << q.span << ", block " << block);
      if (q.frees == 0 || !full) {
        CHECK(first[at] == 7);
        continue;
      }
      const bool expected = kept.count({q.table, block}) == 0;
      CHECK(first[at] == (expected ? 1 : 0));
      CHECK(second[at] == 0);
      reported += expected ? 1 : 0;
    }
  }
  CHECK(reported > 0);
}

TEST_CASE(
    "cuda slots: packing in place moves the last tokens into the first holes, packing by copy keeps the "
    "order") {
  SPW_NEEDS_GPU();
  const int block_size = GENERATE(8, 16, 32, 64);
  SlotScene scene(shape_of_block(block_size), 6);
  for (const int span : kSpans)
    for (const double holes : {0.0, 0.1, 0.5, 0.95})
      for (const bool copies : {false, true})
        scene.add(span, holes, false, copies ? span : 0).copies = copies ? 1 : 0;
  scene.upload();
  // Units of one sequence have equally many live tokens: holes are made until they do.
  SlotScene even(shape_of_block(block_size), 6);
  std::vector<int> live;
  for (std::size_t s = 0; s < scene.sequences().size(); ++s) {
    std::size_t fewest = static_cast<std::size_t>(scene.sequences()[s].span);
    for (int unit = 0; unit < scene.shape().units(); ++unit) {
      const std::vector<float> positions = scene.positions(scene.bytes, s, unit);
      fewest = std::min(fewest, static_cast<std::size_t>(std::count_if(positions.begin(), positions.end(),
                                                                       [](float p) { return p >= 0; })));
    }
    live.push_back(static_cast<int>(fewest));
    const SparseSequence& q = scene.sequences()[s];
    SparseSequence& to = even.add(q.span, 0, false, q.copies != 0 ? q.span : 0);
    to.copies = q.copies;
    to.live = static_cast<int>(fewest);
  }
  even.upload();
  std::mt19937 random(7);
  for (std::size_t s = 0; s < even.sequences().size(); ++s) {
    const SparseSequence& q = even.sequences()[s];
    for (int unit = 0; unit < even.shape().units(); ++unit) {
      std::vector<int> slots(static_cast<std::size_t>(q.span));
      std::iota(slots.begin(), slots.end(), 0);
      std::shuffle(slots.begin(), slots.end(), random);
      for (int i = live[s]; i < q.span; ++i)
        even.set_position(q.table, unit, slots[static_cast<std::size_t>(i)], kHole);
    }
  }
  REQUIRE(cudaMemcpy(even.slots().pool, even.bytes.data(), even.bytes.size(), cudaMemcpyHostToDevice) ==
          cudaSuccess);
  const int key_bytes = even.shape().head_dim * static_cast<int>(bytes_of(even.shape().element));
  for (std::size_t s = 0; s < even.sequences().size(); ++s)
    launch_sparse_pack(even.slots(), static_cast<int>(s), key_bytes, nullptr);
  finish();
  const std::vector<std::uint8_t> after = even.read();
  for (std::size_t s = 0; s < even.sequences().size(); ++s) {
    const SparseSequence& q = even.sequences()[s];
    const int to_table = q.copies != 0 ? q.copy_table : q.table;
    for (int unit = 0; unit < even.shape().units(); ++unit) {
      std::vector<int> from;  // by slot
      int next = 0;
      for (int slot = 0; slot < q.live; ++slot) from.push_back(slot);
      for (int slot = 0; slot < q.span; ++slot) {
        if (even.position(even.bytes, q.table, unit, slot) < 0) continue;
        if (q.copies != 0) {
          from[static_cast<std::size_t>(next++)] = slot;
        } else if (slot >= q.live) {
          while (even.position(even.bytes, q.table, unit, next) >= 0) ++next;
          from[static_cast<std::size_t>(next++)] = slot;
        }
      }
      for (int slot = 0; slot < q.live; ++slot) {
        INFO("span " << q.span << ", live " << q.live << ", copies " << q.copies << ", unit " << unit
                     << ", slot " << slot);
        const int source = from[static_cast<std::size_t>(slot)];
        REQUIRE(even.position(after, to_table, unit, slot) ==
                even.position(even.bytes, q.table, unit, source));
        REQUIRE(even.score(after, to_table, unit, slot) == even.score(even.bytes, q.table, unit, source));
        for (const int part : {0, 1})
          REQUIRE(even.vector_of(after, to_table, unit, slot, part) ==
                  even.vector_of(even.bytes, q.table, unit, source, part));
      }
      for (int slot = q.live; q.copies == 0 && slot < q.span; ++slot)
        CHECK(even.position(after, q.table, unit, slot) < 0);
    }
  }
}

}  // namespace spillway::gpu::cuda
