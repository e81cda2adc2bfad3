// SPDX-License-Identifier: Apache-2.0
#pragma once

// Tiny weight files made in memory, right or deliberately wrong, for the tests of the readers.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace spillway::model::testing {

/// A directory under the system's temporary one, removed with everything in it at the end.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }
  /// Writes (or overwrites) a file and gives its path.
  std::filesystem::path write(const std::string& name, std::string_view content) const;

 private:
  std::filesystem::path path_;
};

[[nodiscard]] inline std::span<const std::byte> as_bytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

/// The value's bytes, little-endian.
template <class T>
[[nodiscard]] std::string raw(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof value);
}

/// GGUF's string: a 64-bit length, then the bytes.
[[nodiscard]] std::string gguf_string(std::string_view text);

/// Puts a GGUF file together piece by piece. Nothing is checked: hostile files are made with it too.
class GgufBuilder {
 public:
  explicit GgufBuilder(std::uint32_t version = 3) : version_(version) {}

  GgufBuilder& value(std::string_view key, std::uint32_t type, std::string_view bytes);
  GgufBuilder& u32(std::string_view key, std::uint32_t v) { return value(key, 4, raw(v)); }
  GgufBuilder& f32(std::string_view key, float v) { return value(key, 6, raw(v)); }
  GgufBuilder& string(std::string_view key, std::string_view v) { return value(key, 8, gguf_string(v)); }
  GgufBuilder& strings(std::string_view key, const std::vector<std::string>& v);
  /// `shape` outermost first, as TensorView has it. The bytes go where the tensors before it end, aligned.
  GgufBuilder& tensor(std::string_view name, std::uint32_t type, const std::vector<std::uint64_t>& shape,
                      std::string_view bytes);
  /// An entry of the table whose offset is given and which brings no bytes.
  GgufBuilder& tensor_at(std::string_view name, std::uint32_t type, const std::vector<std::uint64_t>& shape,
                         std::uint64_t offset);

  [[nodiscard]] std::string build(std::uint64_t alignment = 32) const;
  /// Bytes before the tensor data, without padding.
  [[nodiscard]] std::size_t header_bytes() const;

 private:
  std::uint32_t version_;
  std::string metadata_, table_, data_;
  std::uint64_t keys_ = 0, tensors_ = 0;
};

/// A llama of one layer: hidden 32, 4 heads (2 for keys and values) of 8, intermediate 64, vocabulary 40;
/// F32, tied.
[[nodiscard]] GgufBuilder tiny_llama_gguf();

struct NamedTensor {
  std::string name;
  std::vector<std::uint64_t> shape;
  std::string dtype = "F32";
};

/// A safetensors file with these tensors, values counting up in small steps.
[[nodiscard]] std::string safetensors(const std::vector<NamedTensor>& tensors);
/// A safetensors file with this header and `data_bytes` zeros.
[[nodiscard]] std::string safetensors_raw(std::string_view header, std::size_t data_bytes);

/// Tensors of the tiny llama under their Hugging Face names; `prefix` is "model." in files with a head.
[[nodiscard]] std::vector<NamedTensor> tiny_llama_tensors(const std::string& prefix = "model.",
                                                          const std::string& dtype = "F32");
/// config.json of the tiny llama; `more` is inserted as further fields ("\"a\": 1, ").
[[nodiscard]] std::string tiny_llama_config(const std::string& more = "");

/// OPT of two layers: hidden 32, embedding `embedding`, 4 heads, ffn 48, vocabulary 40, 16 positions.
[[nodiscard]] std::vector<NamedTensor> tiny_opt_tensors(const std::string& prefix, std::uint64_t embedding,
                                                        bool final_norm);
[[nodiscard]] std::string tiny_opt_config(const std::string& more = "");

}  // namespace spillway::model::testing
