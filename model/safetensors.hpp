// SPDX-License-Identifier: Apache-2.0
#pragma once

// safetensors: one file, or shards named by model.safetensors.index.json. A file is 8 bytes of header length,
// a JSON header {"name": {"dtype", "shape", "data_offsets"}}, then the data without holes or overlaps.
// Untrusted. Format: https://github.com/huggingface/safetensors#format

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "model/mapped_file.hpp"
#include "model/tensor.hpp"
#include "runtime/result.hpp"

namespace spillway::model {

struct SafetensorsEntry {
  std::string name;
  std::string dtype_name;            // as the file spells it
  std::optional<DType> dtype;        // empty: a type this build cannot use
  std::vector<std::uint64_t> shape;  // outermost first
  std::span<const std::byte> data;
};

/// Parses one file's bytes, which outlive the result. `name` stands for the file in messages. Errors:
/// kBadFile.
[[nodiscard]] Result<std::vector<SafetensorsEntry>> parse_safetensors(std::span<const std::byte> bytes,
                                                                      std::string_view name);

/// The tensors of a model directory, over all its shards.
class SafetensorsModel {
 public:
  /// Errors: kNotFound (neither model.safetensors nor its index there), kBadFile, kIo.
  [[nodiscard]] static Result<SafetensorsModel> open(const std::filesystem::path& directory);

  [[nodiscard]] const SafetensorsEntry* find(std::string_view name) const noexcept;
  [[nodiscard]] const std::vector<SafetensorsEntry>& entries() const noexcept { return entries_; }
  [[nodiscard]] const std::vector<MappedFile>& mappings() const noexcept { return mappings_; }
  /// The file that holds the entry, for messages.
  [[nodiscard]] const std::string& file_of(const SafetensorsEntry& entry) const noexcept;
  [[nodiscard]] const std::string& directory() const noexcept { return directory_; }

 private:
  Result<void> add_file(const std::filesystem::path& path, std::vector<SafetensorsEntry>& entries);
  Result<void> read_index(const std::filesystem::path& index);

  std::string directory_;
  std::vector<MappedFile> mappings_;
  std::vector<SafetensorsEntry> entries_;
  std::unordered_map<std::string_view, std::size_t> index_;  // keys view entries_' names
};

}  // namespace spillway::model
