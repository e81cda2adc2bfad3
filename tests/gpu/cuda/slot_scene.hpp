// SPDX-License-Identifier: Apache-2.0
#pragma once

// A pool with sparsified sequences of random contents for tests of the slots' kernels: scattered blocks,
// holes, scores with ties. The host keeps what it uploaded and reads back what became of it.

#include <algorithm>
#include <memory>
#include <numeric>

#include "gpu/cuda/sparse_slots.hpp"
#include "gpu/sparse_policy.hpp"
#include "tests/gpu/cuda/gpu.hpp"

namespace spillway::gpu::cuda {

struct SlotShape {
  Element element = Element::kBF16;
  int heads = 4, kv_heads = 2, head_dim = 64, block_size = 16, window = 0, layers = 2;
  [[nodiscard]] int units() const { return layers * kv_heads; }
};

class SlotScene {
 public:
  static constexpr double kOneHole = -1;
  SlotScene(const SlotShape& shape, unsigned seed) : shape_(shape), random_(seed) {}

  /// A sequence of `span` slots; each holds a token but with probability `holes`. Positions are distinct and
  /// below 2 * span, the same in all units if `alike`. With `to_copy` slots for packing by copy. kOneHole:
  /// exactly one, noted as the last victim, though not rightly so in every unit.
  SparseSequence& add(int span, double holes, bool alike = false, int to_copy = 0) {
    SparseSequence s;
    s.table = static_cast<int>(table_.size());
    append_blocks(span);
    s.copy_table = static_cast<int>(table_.size());
    append_blocks(to_copy);
    s.span = span;
    s.scratch = slots_;
    slots_ += (span + 3) / 4 * 4;
    s.row = s.state_row = static_cast<int>(sequences_.size());
    s.tokens = 1;
    s.position = 2 * span;
    s.end_evictable = 1e9f;
    filled_.push_back({holes, alike});
    sequences_.push_back(s);
    return sequences_.back();
  }

  void upload() {
    std::vector<std::int32_t> ids(table_.size());
    std::iota(ids.begin(), ids.end(), 0);
    std::shuffle(ids.begin(), ids.end(), random_);
    table_ = ids;
    const std::size_t elements =
        static_cast<std::size_t>(2 * shape_.units() * shape_.block_size * shape_.head_dim);
    kv_bytes_ = elements * bytes_of(shape_.element);
    block_bytes_ = kv_bytes_ + static_cast<std::size_t>(shape_.units() * 2 * shape_.block_size) * 4;
    bytes.resize(block_bytes_ * table_.size());
    std::normal_distribution<float> normal(0, 1);
    for (std::size_t block = 0; block < table_.size(); ++block)
      for (std::size_t i = 0; i < elements; ++i)
        put(&bytes[block * block_bytes_ + i * bytes_of(shape_.element)], normal(random_));
    victims_of_.assign(sequences_.size() * static_cast<std::size_t>(shape_.units()), -1);
    for (std::size_t s = 0; s < sequences_.size(); ++s) fill(s);
    pool_ = std::make_unique<DeviceArray<std::uint8_t>>(bytes);
    device_table_ = std::make_unique<DeviceArray<std::int32_t>>(table_);
    device_sequences_ = std::make_unique<DeviceArray<SparseSequence>>(sequences_);
    count_ = std::make_unique<DeviceArray<std::int32_t>>(
        std::vector<std::int32_t>{static_cast<int>(sequences_.size())});
    const std::size_t all = static_cast<std::size_t>(slots_);
    logits_ = std::make_unique<DeviceArray<float>>(all * static_cast<std::size_t>(shape_.heads));
    sums_ = std::make_unique<DeviceArray<float>>(all * static_cast<std::size_t>(shape_.layers));
    places_ = std::make_unique<DeviceArray<SparsePlace>>(sequences_.size() *
                                                         static_cast<std::size_t>(shape_.units()));
    victims_ = std::make_unique<DeviceArray<std::int32_t>>(victims_of_);
    emptied_ = std::make_unique<DeviceArray<std::uint8_t>>(std::vector<std::uint8_t>(table_.size(), 7));
  }

  [[nodiscard]] SparseSlots slots() const {
    SparseSlots p;
    p.pool = reinterpret_cast<char*>(pool_->data());
    p.block_bytes = static_cast<std::int64_t>(block_bytes_);
    p.metadata = p.pool + kv_bytes_;  // here behind each block's keys and values
    p.metadata_bytes = p.block_bytes;
    p.metadata_layer_bytes = std::int64_t{2} * shape_.kv_heads * shape_.block_size * 4;
    p.layers = shape_.layers;
    p.heads = shape_.heads;
    p.kv_heads = shape_.kv_heads;
    p.block_size = shape_.block_size;
    p.block_table = device_table_->data();
    p.sequences = device_sequences_->data();
    p.count = count_->data();
    p.max_sequences = p.launched = static_cast<int>(sequences_.size());
    p.places = places_->data();
    p.victims = victims_->data();
    p.logits = logits_->data();
    p.sums = sums_->data();
    p.emptied = emptied_->data();
    return p;
  }
  [[nodiscard]] const SlotShape& shape() const { return shape_; }
  [[nodiscard]] const std::vector<SparseSequence>& sequences() const { return sequences_; }
  [[nodiscard]] const std::vector<std::int32_t>& table() const { return table_; }
  [[nodiscard]] std::vector<SparsePlace> places() const { return places_->read(); }
  [[nodiscard]] std::vector<std::uint8_t> emptied() const { return emptied_->read(); }
  [[nodiscard]] std::size_t blocks() const { return table_.size(); }
  [[nodiscard]] std::int64_t block_elements() const {
    return static_cast<std::int64_t>(block_bytes_ / bytes_of(shape_.element));
  }
  [[nodiscard]] std::vector<std::uint8_t> read() const { return pool_->read(); }

  /// A unit's slot in a copy of the pool; `table` is a sequence's table or copy_table.
  [[nodiscard]] float position(const std::vector<std::uint8_t>& in, int table, int unit, int slot) const {
    return get_float(in, metadata_at(table, unit, slot));
  }
  [[nodiscard]] float score(const std::vector<std::uint8_t>& in, int table, int unit, int slot) const {
    return get_float(in, metadata_at(table, unit, slot) + to_score());
  }
  void set_position(int table, int unit, int slot, float value) {
    std::memcpy(&bytes[metadata_at(table, unit, slot)], &value, 4);
  }
  /// part 0: the key, 1: the value; [head_dim]
  [[nodiscard]] std::vector<float> vector_of(const std::vector<std::uint8_t>& in, int table, int unit,
                                             int slot, int part) const {
    const int layer = unit / shape_.kv_heads, kv_head = unit % shape_.kv_heads;
    const auto block =
        static_cast<std::size_t>(table_[static_cast<std::size_t>(table + slot / shape_.block_size)]);
    const std::size_t row = static_cast<std::size_t>(
        ((layer * 2 + part) * shape_.kv_heads + kv_head) * shape_.block_size + slot % shape_.block_size);
    std::vector<float> values(static_cast<std::size_t>(shape_.head_dim));
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] = get(&in[block * block_bytes_ + (row * values.size() + i) * bytes_of(shape_.element)]);
    return values;
  }
  [[nodiscard]] std::vector<float> positions(const std::vector<std::uint8_t>& in, std::size_t s,
                                             int unit) const {
    std::vector<float> values;
    for (int slot = 0; slot < sequences_[s].span; ++slot)
      values.push_back(position(in, sequences_[s].table, unit, slot));
    return values;
  }
  [[nodiscard]] std::vector<float> scores(const std::vector<std::uint8_t>& in, std::size_t s,
                                          int unit) const {
    std::vector<float> values;
    for (int slot = 0; slot < sequences_[s].span; ++slot)
      values.push_back(score(in, sequences_[s].table, unit, slot));
    return values;
  }

  std::vector<std::uint8_t> bytes;  // the pool as uploaded

 private:
  void append_blocks(int slots) {
    table_.resize(table_.size() +
                  static_cast<std::size_t>((slots + shape_.block_size - 1) / shape_.block_size));
  }
  void fill(std::size_t s) {
    const SparseSequence& q = sequences_[s];
    std::vector<float> first;
    for (int unit = 0; unit < shape_.units(); ++unit) {
      std::vector<float> all(static_cast<std::size_t>(2 * q.span));
      std::iota(all.begin(), all.end(), 0.0f);
      std::shuffle(all.begin(), all.end(), random_);
      for (int slot = 0; slot < q.span; ++slot)
        if (std::uniform_real_distribution<double>(0, 1)(random_) < filled_[s].holes)
          all[static_cast<std::size_t>(slot)] = kHole;
      if (filled_[s].holes == kOneHole) {
        const int hole = static_cast<int>(random_() % static_cast<unsigned>(q.span));
        all[static_cast<std::size_t>(hole)] = kHole;
        const int noted[] = {hole, hole, static_cast<int>(random_() % static_cast<unsigned>(q.span)),
                             q.span + 3, -1};
        victims_of_[s * static_cast<std::size_t>(shape_.units()) + static_cast<std::size_t>(unit)] =
            noted[random_() % 5];
      }
      if (unit == 0) first = all;
      if (filled_[s].alike) all = first;
      for (int slot = 0; slot < q.span; ++slot) {
        set_position(q.table, unit, slot, all[static_cast<std::size_t>(slot)]);
        const float score = static_cast<float>(random_() % 16) / 8;  // equal ones occur
        std::memcpy(&bytes[metadata_at(q.table, unit, slot) + to_score()], &score, 4);
      }
    }
  }
  [[nodiscard]] std::size_t to_score() const {
    return static_cast<std::size_t>(shape_.kv_heads * shape_.block_size) * 4;
  }
  [[nodiscard]] std::size_t metadata_at(int table, int unit, int slot) const {
    const auto block =
        static_cast<std::size_t>(table_[static_cast<std::size_t>(table + slot / shape_.block_size)]);
    return block * block_bytes_ + kv_bytes_ +
           static_cast<std::size_t>((unit / shape_.kv_heads * 2 * shape_.kv_heads + unit % shape_.kv_heads) *
                                        shape_.block_size +
                                    slot % shape_.block_size) *
               4;
  }
  static float get_float(const std::vector<std::uint8_t>& in, std::size_t at) {
    float value;
    std::memcpy(&value, &in[at], 4);
    return value;
  }
  void put(std::uint8_t* to, float value) const {
    if (shape_.element == Element::kF32) {
      std::memcpy(to, &value, 4);
    } else {
      const std::uint16_t bits = to_bits(value, shape_.element);
      std::memcpy(to, &bits, 2);
    }
  }
  [[nodiscard]] float get(const std::uint8_t* from) const {
    float value;
    if (shape_.element == Element::kF32) {
      std::memcpy(&value, from, 4);
      return value;
    }
    std::uint16_t bits;
    std::memcpy(&bits, from, 2);
    return from_bits(bits, shape_.element);
  }

  struct Filling {
    double holes;
    bool alike;
  };
  SlotShape shape_;
  std::mt19937 random_;
  std::vector<SparseSequence> sequences_;
  std::vector<Filling> filled_;
  std::vector<std::int32_t> table_, victims_of_;
  int slots_ = 0;
  std::size_t kv_bytes_ = 0, block_bytes_ = 0;
  std::unique_ptr<DeviceArray<std::uint8_t>> pool_, emptied_;
  std::unique_ptr<DeviceArray<std::int32_t>> device_table_, count_, victims_;
  std::unique_ptr<DeviceArray<SparseSequence>> device_sequences_;
  std::unique_ptr<DeviceArray<float>> logits_, sums_;
  std::unique_ptr<DeviceArray<SparsePlace>> places_;
};

}  // namespace spillway::gpu::cuda
