// SPDX-License-Identifier: Apache-2.0
#pragma once

// GGUF v2 and v3, little-endian: typed metadata and a table of tensors. The file is untrusted: every count, offset
// and length is checked against the bytes that are there before anything is allocated. Keys, names and strings are
// views into the mapping; a parsed file is valid until the GgufFile (or the span given to parse) goes away.
// Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
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

enum class GgufType : std::uint32_t {
  kUint8, kInt8, kUint16, kInt16, kUint32, kInt32, kFloat32, kBool, kString, kArray, kUint64, kInt64, kFloat64,
};

[[nodiscard]] std::string_view to_string(GgufType type) noexcept;

/// One metadata value, undecoded. For a scalar or a string `data` is its bytes (a string's without the length);
/// for an array the elements back to back as in the file.
struct GgufValue {
  GgufType type{};
  GgufType element_type{};           // arrays only
  std::uint64_t count = 0;           // arrays only: elements
  std::span<const std::byte> data;
  std::uint64_t file_offset = 0;     // of `data`
};

struct GgufTensor {
  std::string_view name;
  std::uint32_t type_id = 0;         // ggml's number, also when this build cannot use it
  std::optional<DType> dtype;        // empty: unsupported type
  std::vector<std::uint64_t> shape;  // outermost first (the file stores it the other way round)
  std::uint64_t file_offset = 0;     // of its first byte
  std::span<const std::byte> data;   // empty when dtype is
};

class GgufFile {
 public:
  /// Maps and parses. Errors: as MappedFile::open; kBadFile and kUnsupported name file, field and byte offset.
  [[nodiscard]] static Result<GgufFile> open(const std::filesystem::path& path);

  /// Parses bytes that outlive the result. `name` stands for the file in messages.
  [[nodiscard]] static Result<GgufFile> parse(std::span<const std::byte> bytes, std::string name);

  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  [[nodiscard]] std::uint32_t version() const noexcept { return version_; }
  [[nodiscard]] const MappedFile& mapping() const noexcept { return mapping_; }  // empty after parse()

  // Metadata. A missing key gives kNotFound, a value of another type or out of range kBadFile; both name the key.
  [[nodiscard]] bool has(std::string_view key) const noexcept { return values_.contains(key); }
  [[nodiscard]] const GgufValue* find(std::string_view key) const noexcept;
  [[nodiscard]] Result<std::int64_t> integer(std::string_view key) const;   // any integer type that fits
  [[nodiscard]] Result<double> number(std::string_view key) const;          // any float or integer type
  [[nodiscard]] Result<bool> boolean(std::string_view key) const;
  [[nodiscard]] Result<std::string_view> string(std::string_view key) const;
  [[nodiscard]] Result<std::vector<std::string_view>> strings(std::string_view key) const;  // array of strings
  [[nodiscard]] Result<std::vector<std::int64_t>> integers(std::string_view key) const;     // array of integers
  [[nodiscard]] Result<std::vector<float>> numbers(std::string_view key) const;             // array of numbers
  [[nodiscard]] const std::vector<std::string_view>& keys() const noexcept { return keys_; }  // file order

  [[nodiscard]] const std::vector<GgufTensor>& tensors() const noexcept { return tensors_; }  // file order
  [[nodiscard]] const GgufTensor* find_tensor(std::string_view name) const noexcept;
  /// kNotFound when it is missing, kUnsupported (naming tensor and type) when its type is.
  [[nodiscard]] Result<TensorView> tensor(std::string_view name) const;

 private:
  friend class GgufParser;

  MappedFile mapping_;
  std::string name_;
  std::uint32_t version_ = 0;
  std::vector<std::string_view> keys_;
  std::unordered_map<std::string_view, GgufValue> values_;
  std::vector<GgufTensor> tensors_;
  std::unordered_map<std::string_view, std::size_t> tensor_index_;
};

/// ggml's own word for a tensor type number ("Q4_K"), or "type 99".
[[nodiscard]] std::string ggml_type_name(std::uint32_t type_id);

}  // namespace spillway::model
