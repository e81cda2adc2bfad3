// SPDX-License-Identifier: Apache-2.0
#include "model/safetensors.hpp"

#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/string.hpp>
#include <cstring>
#include <limits>
#include <map>
#include <utility>

#include "model/json.hpp"
#include "model/quote.hpp"

namespace spillway::model {
namespace {

namespace json = boost::json;
namespace fs = std::filesystem;

constexpr std::uint64_t kHeaderBytesMax = std::uint64_t{16} << 20;  // about 150k tensors
constexpr std::size_t kIndexBytesMax = std::size_t{16} << 20;
constexpr std::size_t kDimsMax = 8;
constexpr std::size_t kShardsMax = 4096;

std::optional<DType> dtype_of(std::string_view name) {
  if (name == "F32") return DType::kF32;
  if (name == "F16") return DType::kF16;
  if (name == "BF16") return DType::kBF16;
  return std::nullopt;
}

std::string_view view(const json::string& text) { return {text.data(), text.size()}; }

/// A non-negative integer, or nothing.
std::optional<std::uint64_t> as_size(const json::value& value) {
  if (const auto* i = value.if_int64(); i != nullptr && *i >= 0) return static_cast<std::uint64_t>(*i);
  if (const auto* u = value.if_uint64()) return *u;
  return std::nullopt;
}

struct Placed {
  SafetensorsEntry entry;
  std::uint64_t begin = 0, end = 0;  // relative to the data
};

Result<Placed> read_entry(std::string_view name, const json::value& value, std::uint64_t data_bytes,
                          std::string_view file) {
  const auto bad = [&](const std::string& what) {
    return Error{Errc::kBadFile, std::string(file) + ": tensor " + quote(name) + ": " + what};
  };
  Placed out;
  out.entry.name = std::string(name);
  const json::object* object = value.if_object();
  if (object == nullptr) return bad("its header entry is no object");
  const json::value* dtype = object->if_contains("dtype");
  const json::value* shape = object->if_contains("shape");
  const json::value* offsets = object->if_contains("data_offsets");
  if (dtype == nullptr || !dtype->is_string()) return bad("field 'dtype' is missing or no string");
  if (shape == nullptr || !shape->is_array()) return bad("field 'shape' is missing or no array");
  if (offsets == nullptr || !offsets->is_array() || offsets->get_array().size() != 2) {
    return bad("field 'data_offsets' is missing or no array of two");
  }
  out.entry.dtype_name = std::string(view(dtype->get_string()));
  out.entry.dtype = dtype_of(out.entry.dtype_name);

  std::uint64_t elements = 1;
  bool overflow = false;
  if (shape->get_array().size() > kDimsMax) return bad("field 'shape' has more than 8 dimensions");
  for (const json::value& item : shape->get_array()) {
    const auto size = as_size(item);
    if (!size) return bad("field 'shape' holds something other than sizes");
    overflow |= __builtin_mul_overflow(elements, *size, &elements);
    out.entry.shape.push_back(*size);
  }
  const auto begin = as_size(offsets->get_array()[0]);
  const auto end = as_size(offsets->get_array()[1]);
  if (!begin || !end || *begin > *end) return bad("field 'data_offsets' is no range of bytes");
  const std::string range = "[" + std::to_string(*begin) + ", " + std::to_string(*end) + "]";
  if (*end > data_bytes) {
    return bad("truncated: data_offsets " + range + " reach beyond the " + std::to_string(data_bytes) +
               " bytes of data in the file");
  }
  if (out.entry.dtype) {
    std::uint64_t wanted = 0;
    overflow |= __builtin_mul_overflow(elements, std::uint64_t{block_bytes(*out.entry.dtype)}, &wanted);
    if (overflow || wanted != *end - *begin) {
      return bad("data_offsets " + range + " hold " + std::to_string(*end - *begin) +
                 " bytes, its shape and dtype " +
                 (overflow ? std::string("more than 2^64") : std::to_string(wanted)));
    }
  }
  out.begin = *begin;
  out.end = *end;
  return out;
}

/// The format allows neither overlaps nor holes, so that a file means one thing to every reader.
Result<void> check_coverage(const std::vector<Placed>& tensors, std::uint64_t data_bytes,
                            std::string_view file) {
  std::vector<const Placed*> order;
  order.reserve(tensors.size());
  for (const Placed& tensor : tensors) order.push_back(&tensor);
  std::ranges::sort(order, {}, [](const Placed* p) { return std::pair(p->begin, p->end); });
  std::uint64_t reached = 0;
  for (const Placed* tensor : order) {
    if (tensor->begin != reached) {
      return Error{Errc::kBadFile, std::string(file) + ": tensor " + quote(tensor->entry.name) +
                                       ": data_offsets start at " + std::to_string(tensor->begin) +
                                       (tensor->begin < reached
                                            ? ", inside the tensor before it, which ends at "
                                            : ", leaving a hole after the tensor before it, which ends at ") +
                                       std::to_string(reached)};
    }
    reached = tensor->end;
  }
  if (reached != data_bytes) {
    return Error{Errc::kBadFile, std::string(file) + ": the tensors end at data byte " +
                                     std::to_string(reached) + ", the file has " +
                                     std::to_string(data_bytes) + " bytes of data"};
  }
  return {};
}

}  // namespace

Result<std::vector<SafetensorsEntry>> parse_safetensors(std::span<const std::byte> bytes,
                                                        std::string_view name) {
  const std::string file(name);
  if (bytes.empty())
    return Error{Errc::kBadFile, file + ": the file is empty; a safetensors file was expected"};
  if (bytes.size() < 8) {
    return Error{Errc::kBadFile, file +
                                     ": truncated: the header length wants 8 bytes at byte 0, the file has " +
                                     std::to_string(bytes.size())};
  }
  std::uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.data(), sizeof header_bytes);
  if (header_bytes > bytes.size() - 8) {
    return Error{Errc::kBadFile, file +
                                     ": truncated or no safetensors file: the header length at byte 0 is " +
                                     std::to_string(header_bytes) + ", the file has " +
                                     std::to_string(bytes.size() - 8) + " bytes after it"};
  }
  if (header_bytes > kHeaderBytesMax) {
    return Error{Errc::kBadFile, file + ": the header length at byte 0 is " + std::to_string(header_bytes) +
                                     "; at most " + std::to_string(kHeaderBytesMax) + " bytes are read"};
  }
  auto header = parse_json({reinterpret_cast<const char*>(bytes.data()) + 8, header_bytes},
                           file + " (header, from byte 8)");
  if (!header) return std::move(header).error();
  if (!header->is_object()) return Error{Errc::kBadFile, file + ": the header at byte 8 is no JSON object"};

  const std::uint64_t data_bytes = bytes.size() - 8 - header_bytes;
  std::vector<Placed> tensors;
  tensors.reserve(header->get_object().size());
  for (const auto& item : header->get_object()) {
    const std::string_view key(item.key().data(), item.key().size());
    if (key == "__metadata__") continue;
    auto entry = read_entry(key, item.value(), data_bytes, file);
    if (!entry) return std::move(entry).error();
    tensors.push_back(std::move(*entry));
  }
  if (auto done = check_coverage(tensors, data_bytes, file); !done) return std::move(done).error();

  std::vector<SafetensorsEntry> out;
  out.reserve(tensors.size());
  for (Placed& tensor : tensors) {
    tensor.entry.data = bytes.subspan(8 + header_bytes + tensor.begin, tensor.end - tensor.begin);
    out.push_back(std::move(tensor.entry));
  }
  return out;
}

Result<void> SafetensorsModel::add_file(const fs::path& path, std::vector<SafetensorsEntry>& entries) {
  auto mapping = MappedFile::open(path);
  if (!mapping) return std::move(mapping).error();
  auto parsed = parse_safetensors(mapping->bytes(), path.string());
  if (!parsed) return std::move(parsed).error();
  mappings_.push_back(std::move(*mapping));
  entries = std::move(*parsed);
  return {};
}

Result<void> SafetensorsModel::read_index(const fs::path& index) {
  auto document = parse_json_file(index, kIndexBytesMax);
  if (!document) return std::move(document).error();
  const std::string file = index.string();
  const JsonField map = JsonField(*document, file)["weight_map"];
  if (!map.is_object()) return map.error("is missing or no object; it maps tensor names to files");

  std::map<std::string, std::vector<std::string>> wanted;  // file -> tensors
  for (const auto& item : map.value()->get_object()) {
    const std::string tensor(item.key().data(), item.key().size());
    if (!item.value().is_string()) return map.error("has no file name for tensor " + quote(tensor));
    const std::string shard(view(item.value().get_string()));
    // A shard lies beside its index: nothing a model file says may lead elsewhere.
    if (shard.empty() || shard.front() == '.' || shard.find('/') != std::string::npos ||
        shard.find('\0') != std::string::npos) {
      return map.error("names the file " + quote(shard) + " for tensor " + quote(tensor) +
                       "; a file name without a path is wanted");
    }
    wanted[shard].push_back(tensor);
  }
  if (wanted.size() > kShardsMax)
    return map.error("names more than " + std::to_string(kShardsMax) + " files");

  for (const auto& [shard, names] : wanted) {
    std::vector<SafetensorsEntry> entries;
    if (auto done = add_file(index.parent_path() / shard, entries); !done) return done;
    std::unordered_map<std::string_view, SafetensorsEntry*> by_name;
    for (SafetensorsEntry& entry : entries) by_name.emplace(entry.name, &entry);
    for (const std::string& name : names) {
      const auto found = by_name.find(name);
      if (found == by_name.end()) {
        return map.error("says that " + quote(shard) + " holds tensor " + quote(name) +
                         ", which it does not");
      }
      entries_.push_back(*found->second);
    }
  }
  return {};
}

Result<SafetensorsModel> SafetensorsModel::open(const fs::path& directory) {
  SafetensorsModel model;
  model.directory_ = directory.string();
  std::error_code ignored;
  const fs::path single = directory / "model.safetensors";
  const fs::path index = directory / "model.safetensors.index.json";
  if (fs::exists(single, ignored)) {
    if (auto done = model.add_file(single, model.entries_); !done) return std::move(done).error();
  } else if (fs::exists(index, ignored)) {
    if (auto done = model.read_index(index); !done) return std::move(done).error();
  } else {
    return Error{Errc::kNotFound,
                 directory.string() + ": holds neither model.safetensors nor model.safetensors.index.json"};
  }
  model.index_.reserve(model.entries_.size());
  for (std::size_t i = 0; i < model.entries_.size(); ++i) model.index_.emplace(model.entries_[i].name, i);
  return model;
}

const SafetensorsEntry* SafetensorsModel::find(std::string_view name) const noexcept {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &entries_[found->second];
}

const std::string& SafetensorsModel::file_of(const SafetensorsEntry& entry) const noexcept {
  for (const MappedFile& mapping : mappings_) {
    if (mapping.contains(entry.data)) return mapping.name();
  }
  return directory_;
}

}  // namespace spillway::model
