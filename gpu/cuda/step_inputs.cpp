// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda/step_inputs.hpp"

#include <algorithm>

#include "gpu/counter_random.hpp"

namespace spillway::gpu::cuda {
namespace {

constexpr std::uint32_t kBlocksAMultiprocessor = 6;  // of decode attention, to have its memory busy
constexpr std::uint32_t kGroupedBlocksAMultiprocessor = 2;
constexpr std::uint32_t kShortestSplit = 64;         // tokens

template <class T>
T* carve(char*& at, std::size_t count) {
  T* array = reinterpret_cast<T*>(at);
  at += (count * sizeof(T) + 15) / 16 * 16;
  return array;
}

SampleParams sample_params(const RowParams& row, std::int32_t row_index, std::uint32_t output_index) {
  const model::SamplingParams& params = row.params;
  SampleParams p;
  p.row = row_index;
  // A tiny temperature overflows the scale: distances from the maximum stay finite where it matters.
  p.inverse_temperature = params.greedy() ? 0.0f : std::min(1.0f / params.temperature, 1e30f);
  p.top_p = params.top_p;
  p.min_p = params.min_p;
  p.top_k = std::max(params.top_k, 0);
  p.repetition = params.repetition_penalty;
  p.presence = params.presence_penalty;
  p.frequency = params.frequency_penalty;
  p.penalizes = params.has_penalties() ? 1 : 0;
  p.logprobs = params.logprobs;
  p.uniform = counter_uniform(params.seed, row.choice, output_index);
  return p;
}

/// A sequence's keys that decode attention reads, cut into even items.
struct DecodeSpan {
  DecodeItem whole;           // all of them
  std::int32_t item_keys = 0;  // of each item but the last
};

/// Spans of long items first, so that the last blocks to run are short ones and end together. Returns how many items.
std::uint32_t put_items(std::vector<DecodeSpan>& spans, DecodeItem* items) {
  std::stable_sort(spans.begin(), spans.end(),
                   [](const DecodeSpan& a, const DecodeSpan& b) { return a.item_keys > b.item_keys; });
  std::uint32_t count = 0;
  for (const auto& [whole, keys] : spans) {
    const auto first = static_cast<std::int32_t>(count);
    for (std::int32_t begin = whole.begin; begin < whole.end; begin += keys) {
      DecodeItem& item = items[count++] = whole;
      item.begin = begin;
      item.end = std::min(whole.end, begin + keys);
      item.first_item = first;
      item.item_count = (whole.end - whole.begin + keys - 1) / keys;
    }
  }
  return count;
}

}  // namespace

StepInputs StepInputs::at(void* base, const StepLimits& limits) {
  char* const begin = static_cast<char*>(base);
  char* next = begin;
  StepInputs in;
  in.num_items = carve<std::int32_t>(next, 1);
  in.samples = carve<SampleParams>(next, limits.max_seqs);
  in.sample_rows = carve<std::int32_t>(next, limits.max_seqs);
  in.items = carve<DecodeItem>(next, limits.max_items);
  in.tiles = carve<PrefillTile>(next, limits.max_tiles);
  in.tokens = carve<std::int32_t>(next, limits.max_tokens);
  in.from_row = carve<std::int32_t>(next, limits.max_tokens);
  in.positions = carve<std::int32_t>(next, limits.max_tokens);
  in.slots = carve<std::int32_t>(next, limits.max_tokens);
  in.tables = carve<std::int32_t>(next, limits.max_tokens);
  in.head_bytes = static_cast<std::size_t>(next - begin);
  in.block_table = carve<std::int32_t>(next, limits.table_entries);
  char* const sparse = next;
  if (limits.max_sparse > 0) {
    in.num_sparse = carve<std::int32_t>(next, 1);
    in.sparse = carve<SparseSequence>(next, limits.max_sparse);
  }
  in.sparse_bytes = static_cast<std::size_t>(next - sparse);
  return in;
}

std::size_t StepInputs::bytes_needed(const StepLimits& limits) {
  const StepInputs in = at(nullptr, limits);
  return in.head_bytes + std::size_t{limits.table_entries} * sizeof(std::int32_t) + 16 + in.sparse_bytes;
}

std::array<PinnedCopy, kInputArrays> copies_of(const StepInputs& from, const StepInputs& to, const StepShape& shape) {
  const auto part = [](const auto* source, auto* target, std::size_t count) {
    return PinnedCopy{source, target, count * sizeof *source};
  };
  // The count and what it counts follow each other.
  const std::uint32_t sequences = shape.sparse.sequences;
  const auto* const end = reinterpret_cast<const char*>(from.sparse + sequences);
  const PinnedCopy sparse{from.num_sparse, to.num_sparse,
                          sequences > 0 ? static_cast<std::size_t>(end - reinterpret_cast<const char*>(from.num_sparse)) : 0};
  return {part(from.num_items, to.num_items, 1),
          part(from.samples, to.samples, shape.samples),
          part(from.sample_rows, to.sample_rows, shape.samples),
          part(from.items, to.items, shape.items),
          part(from.tiles, to.tiles, shape.tiles),
          part(from.tokens, to.tokens, shape.rows),
          part(from.from_row, to.from_row, shape.rows),
          part(from.positions, to.positions, shape.rows),
          part(from.slots, to.slots, shape.rows),
          part(from.tables, to.tables, shape.rows),
          part(from.block_table, to.block_table, shape.table_entries),
          sparse};
}

std::uint32_t decode_items_for(std::uint32_t sequences, const StepGeometry& geometry) {
  const std::uint32_t blocks = geometry.grouped_decode ? kGroupedBlocksAMultiprocessor : kBlocksAMultiprocessor,
                      fill = (geometry.multiprocessors * blocks + geometry.kv_heads - 1) / geometry.kv_heads;
  return sequences + std::max(sequences, fill);
}

std::uint32_t likely_items(std::uint32_t sequences, const StepGeometry& geometry) {
  const std::uint32_t fill = decode_items_for(sequences, geometry) - sequences;
  return 2 * sequences > fill ? sequences : fill;
}

StepShape fill_inputs(const StepPlan& plan, std::span<const RowParams> rows, const StepGeometry& geometry,
                      std::uint32_t bucket, StepInputs& in, std::vector<std::uint32_t>& sampled) {
  sampled.clear();
  StepShape shape;
  shape.rows = std::max(bucket, plan.total_tokens());
  std::uint32_t decoding = 0;
  std::uint64_t decode_tokens = 0;  // keys to read
  const auto visible = [&](const SequenceStep& s) {
    if (s.sparsified()) return plan.sparse[s.sparse].span;
    const std::uint32_t context = s.first_position + 1;
    return geometry.window > 0 ? std::min(context, geometry.window) : context;
  };
  for (const SequenceStep& s : plan.sequences) {
    if (s.token_count > 1 || !geometry.fast_decode) continue;
    ++decoding;
    decode_tokens += visible(s);
  }
  std::uint32_t split = 0;
  std::vector<DecodeSpan> spans;
  spans.reserve(decoding);
  if (decoding > 0) {
    shape.decode_items = decode_items_for(std::max(decoding, bucket), geometry);
    const std::uint32_t spare = shape.decode_items - decoding;  // sum of ceil(n / split) <= sum / split + decoding
    split = static_cast<std::uint32_t>((decode_tokens + spare - 1) / spare);
    split = std::max(kShortestSplit, (split + 31) / 32 * 32);
  }

  for (std::uint32_t i = 0; i < plan.sequences.size(); ++i) {
    const SequenceStep& s = plan.sequences[i];
    const auto table = static_cast<std::int32_t>(shape.table_entries);
    const BlockId* blocks = plan.block_table.data() + s.block_offset;
    const std::uint32_t end = s.sparsified() ? plan.sparse[s.sparse].span : s.first_position + s.token_count;
    const std::uint32_t used = (end + geometry.block_size - 1) / geometry.block_size;
    for (std::uint32_t b = 0; b < used; ++b)
      in.block_table[shape.table_entries++] = static_cast<std::int32_t>(blocks[b]);
    const bool sparse_row = s.sparsified() && s.token_count == 1;
    const bool decodes = s.token_count == 1 && geometry.fast_decode;
    const bool tiles = !decodes && !sparse_row && geometry.fast_prefill;
    const std::int32_t sparse_index = s.sparsified() ? static_cast<std::int32_t>(shape.sparse.sequences) : -1;
    if (s.sparsified()) {
      const SparseStep& step = plan.sparse[s.sparse];
      const auto copy_table = static_cast<std::int32_t>(shape.table_entries);
      if (step.packing == SparseStep::Packing::kCopy) {
        for (std::uint32_t b = 0; b < (step.live + geometry.block_size - 1) / geometry.block_size; ++b)
          in.block_table[shape.table_entries++] = static_cast<std::int32_t>(plan.block_table[step.copy_block_offset + b]);
      }
      in.sparse[sparse_index] = sparse_sequence(s, step, table, copy_table, geometry.block_size, shape.sparse);
    }
    shape.row_attention |= !decodes && !tiles && !sparse_row;
    for (std::uint32_t t = 0; t < s.token_count; ++t) {
      const std::uint32_t at = s.token_offset + t, position = s.first_position + t;
      in.tokens[at] = s.token_from_row ? 0 : plan.tokens[at];
      in.from_row[at] = s.token_from_row ? static_cast<std::int32_t>(s.row) : -1;
      in.positions[at] = static_cast<std::int32_t>(position);
      in.slots[at] = sparse_row ? -2 - sparse_index
                                : static_cast<std::int32_t>(static_cast<std::uint32_t>(blocks[position / geometry.block_size]) *
                                                                geometry.block_size +
                                                            position % geometry.block_size);
      in.tables[at] = decodes || tiles || sparse_row ? -1 : table;
    }
    const auto row = static_cast<std::int32_t>(s.token_offset), first = static_cast<std::int32_t>(s.first_position);
    if (decodes) {
      // Grouped, all blocks run at once and share the memory's rate: one up to twice as long as others ends with them.
      const std::uint32_t whole = visible(s) + (geometry.grouped_decode ? 0 : split - 1);
      const std::uint32_t begin = end - visible(s), count = std::max(1u, whole / split);
      const std::uint32_t even = ((visible(s) + count - 1) / count + 15) / 16 * 16;
      spans.push_back({{.row = row,
                        .table = table,
                        .begin = static_cast<std::int32_t>(begin),
                        .end = static_cast<std::int32_t>(end),
                        .sparse = sparse_index},
                       static_cast<std::int32_t>(even)});
    }
    for (std::uint32_t t = 0; tiles && t < s.token_count; t += kPrefillTile) {
      in.tiles[shape.tiles++] = {row + static_cast<std::int32_t>(t),
                                 static_cast<std::int32_t>(std::min<std::uint32_t>(kPrefillTile, s.token_count - t)),
                                 first + static_cast<std::int32_t>(t), table};
    }
    if (s.samples) {
      SampleParams& sample = in.samples[sampled.size()];
      const auto index = static_cast<std::uint32_t>(s.row);
      sample = sample_params(rows[index], static_cast<std::int32_t>(index), s.output_index);
      sample.logits_row = static_cast<std::int32_t>(sampled.size());
      in.sample_rows[sampled.size()] = static_cast<std::int32_t>(s.token_offset + s.token_count - 1);
      sampled.push_back(i);
    }
  }
  const std::uint32_t num_items = put_items(spans, in.items);
  *in.num_items = static_cast<std::int32_t>(num_items);
  if (shape.sparse.sequences > 0) *in.num_sparse = static_cast<std::int32_t>(shape.sparse.sequences);
  shape.items = shape.likely_items = num_items;

  for (std::uint32_t at = plan.total_tokens(); at < shape.rows; ++at) {
    in.tokens[at] = 0;
    in.from_row[at] = -1;
    in.positions[at] = 0;
    in.slots[at] = -1;
    in.tables[at] = -1;
  }
  shape.samples = std::max(bucket, static_cast<std::uint32_t>(sampled.size()));
  for (auto at = static_cast<std::uint32_t>(sampled.size()); at < shape.samples; ++at) {
    in.samples[at] = {};
    in.sample_rows[at] = -1;
  }
  return shape;
}

}  // namespace spillway::gpu::cuda
