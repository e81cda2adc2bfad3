// SPDX-License-Identifier: Apache-2.0
#include "model/gguf.hpp"

#include <concepts>
#include <utility>

#include "model/quote.hpp"
#include "model/unaligned.hpp"

namespace spillway::model {

namespace {

/// Calls f with the element decoded to its own C++ type; false for strings and arrays.
template <class F>
bool visit_scalar(GgufType type, std::span<const std::byte> bytes, std::uint64_t index, F&& f) {
  switch (type) {
    case GgufType::kUint8: f(read_unaligned<std::uint8_t>(bytes, index)); return true;
    case GgufType::kInt8: f(read_unaligned<std::int8_t>(bytes, index)); return true;
    case GgufType::kUint16: f(read_unaligned<std::uint16_t>(bytes, index)); return true;
    case GgufType::kInt16: f(read_unaligned<std::int16_t>(bytes, index)); return true;
    case GgufType::kUint32: f(read_unaligned<std::uint32_t>(bytes, index)); return true;
    case GgufType::kInt32: f(read_unaligned<std::int32_t>(bytes, index)); return true;
    case GgufType::kUint64: f(read_unaligned<std::uint64_t>(bytes, index)); return true;
    case GgufType::kInt64: f(read_unaligned<std::int64_t>(bytes, index)); return true;
    case GgufType::kFloat32: f(read_unaligned<float>(bytes, index)); return true;
    case GgufType::kFloat64: f(read_unaligned<double>(bytes, index)); return true;
    default: return false;
  }
}

/// An integer element that fits std::int64_t, or nothing.
std::optional<std::int64_t> as_integer(GgufType type, std::span<const std::byte> bytes, std::uint64_t index) {
  std::optional<std::int64_t> out;
  visit_scalar(type, bytes, index, [&](auto value) {
    if constexpr (std::integral<decltype(value)>) {
      if (std::in_range<std::int64_t>(value)) out = static_cast<std::int64_t>(value);
    }
  });
  return out;
}

std::optional<double> as_number(GgufType type, std::span<const std::byte> bytes, std::uint64_t index) {
  std::optional<double> out;
  visit_scalar(type, bytes, index, [&](auto value) { out = static_cast<double>(value); });
  return out;
}

}  // namespace

Result<GgufFile> GgufFile::open(const std::filesystem::path& path) {
  auto mapping = MappedFile::open(path);
  if (!mapping) return std::move(mapping).error();
  auto file = parse(mapping->bytes(), path.string());
  if (file) file->mapping_ = std::move(*mapping);
  return file;
}

const GgufValue* GgufFile::find(std::string_view key) const noexcept {
  const auto found = values_.find(key);
  return found == values_.end() ? nullptr : &found->second;
}

namespace {

Error missing(const GgufFile& file, std::string_view key) {
  return Error{Errc::kNotFound, file.name() + ": metadata key " + quote(key) + " is missing"};
}

Error wrong(const GgufFile& file, std::string_view key, const GgufValue& value, std::string_view wanted) {
  std::string found(to_string(value.type));
  if (value.type == GgufType::kArray) found += " of " + std::string(to_string(value.element_type));
  return Error{Errc::kBadFile, file.name() + ": metadata key " + quote(key) + " has type " + found +
                                   " where " + std::string(wanted) + " is wanted, at byte " +
                                   std::to_string(value.file_offset)};
}

}  // namespace

Result<std::int64_t> GgufFile::integer(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return missing(*this, key);
  const auto number = as_integer(value->type, value->data, 0);
  if (!number) return wrong(*this, key, *value, "an integer below 2^63");
  return *number;
}

Result<double> GgufFile::number(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return missing(*this, key);
  const auto number = as_number(value->type, value->data, 0);
  if (!number) return wrong(*this, key, *value, "a number");
  return *number;
}

Result<bool> GgufFile::boolean(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return missing(*this, key);
  if (value->type != GgufType::kBool) return wrong(*this, key, *value, "a bool");
  const auto byte = read_unaligned<std::uint8_t>(value->data);
  if (byte > 1) return wrong(*this, key, *value, "a bool of 0 or 1");
  return byte == 1;
}

Result<std::string_view> GgufFile::string(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return missing(*this, key);
  if (value->type != GgufType::kString) return wrong(*this, key, *value, "a string");
  return std::string_view(reinterpret_cast<const char*>(value->data.data()), value->data.size());
}

Result<std::vector<std::string_view>> GgufFile::strings(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return missing(*this, key);
  if (value->type != GgufType::kArray || value->element_type != GgufType::kString) {
    return wrong(*this, key, *value, "an array of strings");
  }
  // Lengths were checked by the parser. 16 bytes of view per 8 or more bytes of file.
  std::vector<std::string_view> out;
  out.reserve(value->count);
  std::span<const std::byte> rest = value->data;
  for (std::uint64_t i = 0; i < value->count; ++i) {
    const auto length = read_unaligned<std::uint64_t>(rest);
    out.emplace_back(reinterpret_cast<const char*>(rest.data() + 8), length);
    rest = rest.subspan(8 + length);
  }
  return out;
}

Result<std::vector<std::int64_t>> GgufFile::integers(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return missing(*this, key);
  if (value->type != GgufType::kArray) return wrong(*this, key, *value, "an array of integers");
  std::vector<std::int64_t> out;
  out.reserve(value->count);
  for (std::uint64_t i = 0; i < value->count; ++i) {
    const auto number = as_integer(value->element_type, value->data, i);
    if (!number) return wrong(*this, key, *value, "an array of integers below 2^63");
    out.push_back(*number);
  }
  return out;
}

Result<std::vector<float>> GgufFile::numbers(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return missing(*this, key);
  if (value->type != GgufType::kArray) return wrong(*this, key, *value, "an array of numbers");
  std::vector<float> out;
  out.reserve(value->count);
  for (std::uint64_t i = 0; i < value->count; ++i) {
    const auto number = as_number(value->element_type, value->data, i);
    if (!number) return wrong(*this, key, *value, "an array of numbers");
    out.push_back(static_cast<float>(*number));
  }
  return out;
}

const GgufTensor* GgufFile::find_tensor(std::string_view name) const noexcept {
  const auto found = tensor_index_.find(name);
  return found == tensor_index_.end() ? nullptr : &tensors_[found->second];
}

Result<TensorView> GgufFile::tensor(std::string_view name) const {
  const GgufTensor* found = find_tensor(name);
  if (found == nullptr) {
    return Error{Errc::kNotFound, name_ + ": tensor " + quote(name) + " is missing"};
  }
  if (!found->dtype) {
    return Error{Errc::kUnsupported, name_ + ": tensor " + quote(name) + " has type " +
                                         ggml_type_name(found->type_id) +
                                         "; supported are F32 F16 BF16 Q8_0 Q4_0 Q4_1 Q5_0 Q5_1"};
  }
  return TensorView{std::string(found->name), *found->dtype, found->shape, found->data};
}

std::string_view to_string(GgufType type) noexcept {
  static constexpr std::array<std::string_view, 13> kNames = {
      "uint8", "int8",   "uint16", "int16",  "uint32", "int32",  "float32",
      "bool",  "string", "array",  "uint64", "int64",  "float64"};
  const auto index = static_cast<std::size_t>(type);
  return index < kNames.size() ? kNames[index] : "?";
}

std::string ggml_type_name(std::uint32_t type_id) {
  static constexpr std::array<std::string_view, 40> kNames = {
      "F32",    "F16",   "Q4_0",  "Q4_1",   "",      "",      "Q5_0",    "Q5_1",   "Q8_0",    "Q8_1",
      "Q2_K",   "Q3_K",  "Q4_K",  "Q5_K",   "Q6_K",  "Q8_K",  "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S",
      "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS", "I8",    "I16",   "I32",     "I64",    "F64",     "IQ1_M",
      "BF16",   "",      "",      "",       "TQ1_0", "TQ2_0", "",        "",       "",        "MXFP4"};
  if (type_id < kNames.size() && !kNames[type_id].empty()) return std::string(kNames[type_id]);
  return "type " + std::to_string(type_id);
}

}  // namespace spillway::model
