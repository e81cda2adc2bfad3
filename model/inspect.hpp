// SPDX-License-Identifier: Apache-2.0
#pragma once

// What `spillway inspect` says of a model: pure functions of the opened file; nothing is run or measured.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "model/spec.hpp"

namespace spillway::model {

class Model;

/// Storage of the KV cache that a model may be served with.
enum class KvFormat : std::uint8_t { kF32, kF16, kBF16, kQ8_0 };

[[nodiscard]] std::string_view to_string(KvFormat format) noexcept;  // as --kv-cache-dtype spells it

/// K and V of one token over all layers. q8_0 keeps each head in blocks of 32 elements, 34 bytes each.
[[nodiscard]] std::uint64_t kv_bytes_per_token(const ModelSpec& spec, KvFormat format) noexcept;

struct TypeTotal {
  DType dtype{};
  std::uint64_t tensors = 0, parameters = 0, bytes = 0;
};

struct KvCost {
  KvFormat format{};
  std::uint64_t bytes_per_token = 0;
  std::uint64_t bytes_per_sequence = 0;  // of max_position tokens
};

/// What a memory of `memory_bytes` holds beside the weights, in one KV format.
struct MemoryFit {
  std::uint64_t memory_bytes = 0;
  bool weights_fit = false;
  KvFormat format{};
  std::uint64_t tokens = 0;
  std::uint64_t sequences = 0;  // of max_position tokens each
};

struct ModelReport {
  std::string path, format;  // "GGUF v3", "safetensors (4 files)"
  ModelSpec spec;
  DType dominant_dtype{};
  std::uint64_t parameters = 0, weight_bytes = 0;
  std::vector<TokenId> eos_ids;
  bool has_chat_template = false;
  std::vector<const TensorView*> tensors;  // point into the model
  std::vector<TypeTotal> totals;           // most bytes first
  std::vector<KvCost> kv_costs;
  std::vector<MemoryFit> fits;  // every memory size with every KV format
};

/// The report borrows the model's tensor views.
[[nodiscard]] ModelReport inspect(const Model& model);

[[nodiscard]] std::string inspect_text(const Model& model);  // tables, ends in a newline
[[nodiscard]] std::string inspect_json(const Model& model);  // one JSON object, one line, no newline

}  // namespace spillway::model
