// SPDX-License-Identifier: Apache-2.0

// How a plan is laid out for the kernels. Needs no GPU.

#include "gpu/cuda/step_inputs.hpp"

#include <algorithm>
#include <array>
#include <map>
#include <random>

#include "gpu/cuda/decode_graphs.hpp"
#include "tests/support/catch.hpp"

namespace spillway::gpu::cuda {
namespace {

constexpr std::uint32_t kBlock = 16, kRows = 64;

struct Layout {
  StepLimits limits;
  std::vector<std::uint64_t> memory;
  StepInputs in;
  StepShape shape;
  std::vector<std::uint32_t> sampled;
};

std::unique_ptr<Layout> lay_out(const StepPlan& plan, const StepGeometry& geometry, std::uint32_t bucket) {
  auto layout = std::make_unique<Layout>();
  layout->limits.max_seqs = DecodeGraphs::bucket_for(kRows);
  layout->limits.max_tokens = 4096;
  layout->limits.max_items = decode_items_for(layout->limits.max_seqs, geometry);
  layout->limits.max_tiles = kRows + 4096 / kPrefillTile;
  layout->limits.table_entries = kRows * 512;
  layout->memory.assign(StepInputs::bytes_needed(layout->limits) / 8 + 1, 0xa5a5a5a5a5a5a5a5ull);
  layout->in = StepInputs::at(layout->memory.data(), layout->limits);
  const std::vector<RowParams> rows(kRows);
  layout->shape = fill_inputs(plan, rows, geometry, bucket, layout->in, layout->sampled);
  return layout;
}

StepPlan random_plan(std::mt19937& random, bool decodes_only) {
  const auto up_to = [&](std::uint32_t most) { return static_cast<std::uint32_t>(random() % (most + 1)); };
  StepPlan plan;
  const std::uint32_t count = 1 + up_to(kRows - 1);
  for (std::uint32_t i = 0; i < count; ++i) {
    SequenceStep s;
    s.row = RowId{i};
    s.first_position = up_to(3) == 0 ? up_to(4) : up_to(5000);
    s.token_count = decodes_only || up_to(2) > 0 ? 1 : 1 + up_to(300);
    s.token_offset = static_cast<std::uint32_t>(plan.tokens.size());
    if (s.token_offset + s.token_count > 4000) break;
    s.block_offset = static_cast<std::uint32_t>(plan.block_table.size());
    s.block_count = (s.first_position + s.token_count + kBlock - 1) / kBlock + up_to(2);
    s.token_from_row = s.token_count == 1 && up_to(1) == 1;
    s.samples = up_to(4) > 0;
    for (std::uint32_t t = 0; t < s.token_count; ++t) plan.tokens.push_back(static_cast<TokenId>(up_to(99)));
    for (std::uint32_t b = 0; b < s.block_count; ++b) plan.block_table.push_back(BlockId{up_to(100000)});
    plan.sequences.push_back(s);
  }
  return plan;
}

}  // namespace

TEST_CASE("cuda step inputs: every token of a plan meets one attention kernel, with all keys it may see and no others") {
  std::mt19937 random(11);
  for (int round = 0; round < 300; ++round) {
    StepGeometry geometry;
    geometry.block_size = kBlock;
    geometry.kv_heads = 1u << random() % 6;
    geometry.window = random() % 3 == 0 ? 100 : 0;
    geometry.fast_decode = random() % 4 != 0;
    geometry.fast_prefill = random() % 4 != 0;
    geometry.grouped_decode = random() % 2 != 0;
    geometry.multiprocessors = 132;
    const bool decodes_only = random() % 2 == 0;
    const StepPlan plan = random_plan(random, decodes_only);
    const auto sequences = static_cast<std::uint32_t>(plan.sequences.size());
    const std::uint32_t bucket = decodes_only && geometry.fast_decode ? DecodeGraphs::bucket_for(sequences) : 0;
    const std::unique_ptr<Layout> layout = lay_out(plan, geometry, bucket);
    const StepInputs& in = layout->in;
    INFO("round " << round << ", " << sequences << " sequences, window " << geometry.window);
    REQUIRE(static_cast<std::uint32_t>(*in.num_items) <= layout->shape.decode_items);
    REQUIRE(layout->shape.decode_items <= layout->limits.max_items);
    REQUIRE(layout->shape.tiles <= layout->limits.max_tiles);
    REQUIRE(layout->shape.table_entries <= layout->limits.table_entries);

    std::map<std::int32_t, std::vector<std::pair<std::int32_t, std::int32_t>>> spans;  // by row
    std::map<std::int32_t, std::int32_t> tables;
    for (std::int32_t i = 0; i < *in.num_items; ++i) {
      const DecodeItem& item = in.items[i];
      REQUIRE(item.begin < item.end);
      REQUIRE(item.first_item <= i);
      REQUIRE(i < item.first_item + item.item_count);
      REQUIRE(in.items[item.first_item].row == item.row);
      if (i > 0 && item.first_item == i) {  // blocks that begin late are short
        const DecodeItem& before = in.items[in.items[i - 1].first_item];
        CHECK(before.end - before.begin + 15 >= item.end - item.begin);
      }
      spans[item.row].emplace_back(item.begin, item.end);
      REQUIRE(static_cast<std::int32_t>(spans[item.row].size()) <= item.item_count);
      tables[item.row] = item.table;
    }
    for (std::uint32_t t = 0; t < layout->shape.tiles; ++t) {
      const PrefillTile& tile = in.tiles[t];
      REQUIRE(tile.tokens >= 1);
      REQUIRE(tile.tokens <= kPrefillTile);
      for (std::int32_t i = 0; i < tile.tokens; ++i) {
        REQUIRE(spans.count(tile.row + i) == 0);
        spans[tile.row + i] = {{0, tile.position + i + 1}};  // the kernel applies the window
        tables[tile.row + i] = tile.table;
      }
    }
    std::uint32_t samples = 0;
    for (const SequenceStep& s : plan.sequences) {
      for (std::uint32_t t = 0; t < s.token_count; ++t) {
        const auto row = static_cast<std::int32_t>(s.token_offset + t);
        const auto position = static_cast<std::int32_t>(s.first_position + t);
        CHECK(in.positions[row] == position);
        CHECK(in.from_row[row] == (s.token_from_row ? static_cast<std::int32_t>(s.row) : -1));
        if (!s.token_from_row) CHECK(in.tokens[row] == plan.tokens[static_cast<std::size_t>(row)]);
        const std::uint32_t block = static_cast<std::uint32_t>(position) / kBlock;
        const auto id = static_cast<std::int32_t>(plan.block_table[s.block_offset + block]);
        CHECK(in.slots[row] == id * static_cast<std::int32_t>(kBlock) + position % static_cast<std::int32_t>(kBlock));
        std::int32_t table = in.tables[row];
        if (table >= 0) {
          REQUIRE(layout->shape.row_attention);
          REQUIRE(spans.count(row) == 0);
        } else {
          REQUIRE(spans.count(row) == 1);
          table = tables[row];
          auto& covered = spans[row];
          std::sort(covered.begin(), covered.end());
          const bool by_items = s.token_count == 1 && geometry.fast_decode;
          const std::int32_t window = static_cast<std::int32_t>(geometry.window);
          CHECK(covered.front().first == (by_items && window > 0 ? std::max(0, position + 1 - window) : 0));
          for (std::size_t i = 1; i < covered.size(); ++i) CHECK(covered[i].first == covered[i - 1].second);
          CHECK(covered.back().second == position + 1);
        }
        CHECK(in.block_table[table + static_cast<std::int32_t>(block)] == id);
        CHECK(in.block_table[table] == static_cast<std::int32_t>(plan.block_table[s.block_offset]));
      }
      if (!s.samples) continue;
      REQUIRE(samples < layout->sampled.size());
      CHECK(in.sample_rows[samples] == static_cast<std::int32_t>(s.token_offset + s.token_count - 1));
      CHECK(in.samples[samples].row == static_cast<std::int32_t>(s.row));
      CHECK(in.samples[samples].logits_row == static_cast<std::int32_t>(samples));
      ++samples;
    }
    CHECK(layout->sampled.size() == samples);
    // Padding writes no KV and draws nothing.
    CHECK(layout->shape.rows == std::max(bucket, plan.total_tokens()));
    for (std::uint32_t row = plan.total_tokens(); row < layout->shape.rows; ++row) {
      CHECK(in.slots[row] == -1);
      CHECK(in.from_row[row] == -1);
      CHECK(in.tokens[row] == 0);
      CHECK(in.tables[row] == -1);
    }
    for (std::uint32_t i = samples; i < layout->shape.samples; ++i) {
      CHECK(in.sample_rows[i] == -1);
      CHECK(in.samples[i].row == -1);
    }
  }
}

TEST_CASE("cuda step inputs: with grouped queries sequences stay whole where two blocks a multiprocessor have work") {
  StepGeometry geometry;
  geometry.block_size = kBlock;
  geometry.kv_heads = 8;
  geometry.fast_decode = geometry.grouped_decode = true;
  geometry.multiprocessors = 132;
  const auto items = [&](const std::vector<std::uint32_t>& lengths) {
    StepPlan plan;
    for (const std::uint32_t length : lengths) {
      SequenceStep s;
      s.row = RowId{static_cast<std::uint32_t>(plan.sequences.size())};
      s.first_position = length - 1;
      s.token_count = 1;
      s.token_offset = static_cast<std::uint32_t>(plan.tokens.size());
      s.block_offset = static_cast<std::uint32_t>(plan.block_table.size());
      s.block_count = (length + kBlock - 1) / kBlock;
      plan.tokens.push_back(1);
      plan.block_table.resize(plan.block_table.size() + s.block_count);
      plan.sequences.push_back(s);
    }
    return *lay_out(plan, geometry, 0)->in.num_items;
  };
  for (const auto& [sequences, length, expected] :
       {std::array{64u, 1024u, 64u}, {44u, 256u, 44u}, {32u, 512u, 32u}, {16u, 1024u, 32u}, {4u, 1024u, 32u}}) {
    INFO(sequences << " of " << length);
    CHECK(items(std::vector<std::uint32_t>(sequences, length)) == static_cast<std::int32_t>(expected));
    CHECK(likely_items(sequences, geometry) >= expected);
    CHECK(likely_items(sequences, geometry) <= expected + 1);
  }
  CHECK(items({4096, 256, 256, 256}) > 20);  // a long one is cut, whatever the others
}

TEST_CASE("cuda step inputs: buckets are never smaller than their batch, and stable") {
  for (std::uint32_t n = 1; n <= 4096; ++n) {
    const std::uint32_t bucket = DecodeGraphs::bucket_for(n);
    CHECK(bucket >= n);
    CHECK(bucket < n + 16);
    CHECK(DecodeGraphs::bucket_for(bucket) == bucket);
  }
}

}  // namespace spillway::gpu::cuda
