// SPDX-License-Identifier: Apache-2.0
// GgufFile::parse: the one pass that reads a GGUF file's header, metadata and tensor table.

#include <algorithm>
#include <bit>
#include <limits>
#include <utility>

#include "model/gguf.hpp"
#include "model/quote.hpp"
#include "model/unaligned.hpp"

namespace spillway::model {

static_assert(std::endian::native == std::endian::little, "GGUF values are read as they lie in the file");

namespace {

constexpr std::uint32_t kMagic = 0x46554747;  // "GGUF" read little-endian
constexpr std::uint64_t kAlignmentDefault = 32;
constexpr std::uint64_t kAlignmentMax = 1 << 20;
constexpr std::uint64_t kMetadataKeysMax = 1 << 16;
constexpr std::uint64_t kTensorsMax = 1 << 17;
constexpr std::uint64_t kNameBytesMax = 4096;
constexpr std::uint64_t kArrayElementsMax = 1 << 24;
constexpr std::uint64_t kHeaderBytesMax = std::uint64_t{256} << 20;  // metadata and tensor table
constexpr std::uint32_t kTensorDimsMax = 4;
constexpr int kArrayDepthMax = 4;
// The smallest entry there can be; a count beyond (bytes left) / this is a lie.
constexpr std::uint64_t kMetadataEntryBytesMin = 8 + 1 + 4 + 1;
constexpr std::uint64_t kTensorEntryBytesMin = 8 + 1 + 4 + 8 + 4 + 8;

constexpr std::uint64_t scalar_bytes(GgufType type) noexcept {
  switch (type) {
    case GgufType::kUint8:
    case GgufType::kInt8:
    case GgufType::kBool: return 1;
    case GgufType::kUint16:
    case GgufType::kInt16: return 2;
    case GgufType::kUint32:
    case GgufType::kInt32:
    case GgufType::kFloat32: return 4;
    case GgufType::kUint64:
    case GgufType::kInt64:
    case GgufType::kFloat64: return 8;
    case GgufType::kString:
    case GgufType::kArray: return 0;
  }
  return 0;
}

std::optional<DType> dtype_of(std::uint32_t type_id) noexcept {
  switch (type_id) {
    case 0: return DType::kF32;
    case 1: return DType::kF16;
    case 2: return DType::kQ4_0;
    case 3: return DType::kQ4_1;
    case 6: return DType::kQ5_0;
    case 7: return DType::kQ5_1;
    case 8: return DType::kQ8_0;
    case 30: return DType::kBF16;
    default: return std::nullopt;
  }
}

}  // namespace

/// One pass over header, metadata and tensor table. Every step names what it reads, so that an error can.
class GgufParser {
 public:
  GgufParser(std::span<const std::byte> bytes, GgufFile& file) : bytes_(bytes), file_(file) {}

  Result<void> run() {
    std::uint64_t tensor_count = 0;
    std::uint64_t key_count = 0;
    if (auto done = read_header(tensor_count, key_count); !done) return done;
    if (auto done = read_metadata(key_count); !done) return done;
    if (auto done = read_tensor_table(tensor_count); !done) return done;
    return place_tensors();
  }

 private:
  Error bad(const std::string& what, std::uint64_t offset) const {
    return Error{Errc::kBadFile, file_.name_ + ": " + what + " at byte " + std::to_string(offset)};
  }

  std::uint64_t left() const noexcept { return bytes_.size() - at_; }

  // What is read is named in two parts, joined only for an error: a file may hold millions of elements.
  Result<void> need(std::uint64_t count, std::string_view subject, std::string_view part) const {
    if (count <= left()) return {};
    return Error{Errc::kBadFile, file_.name_ + ": truncated: " + std::string(subject) + std::string(part) +
                                     " wants " + std::to_string(count) + " bytes at byte " +
                                     std::to_string(at_) + ", the file ends at byte " +
                                     std::to_string(bytes_.size())};
  }

  template <class T>
  Result<T> read(std::string_view subject, std::string_view part = {}) {
    if (auto enough = need(sizeof(T), subject, part); !enough) return std::move(enough).error();
    const T value = read_unaligned<T>(bytes_.subspan(at_));
    at_ += sizeof(T);
    return value;
  }

  Result<std::string_view> read_string(const std::string& what, std::uint64_t bytes_max) {
    const std::uint64_t start = at_;
    auto length = read<std::uint64_t>(what, " length");
    if (!length) return std::move(length).error();
    if (*length > left()) {
      return bad("damaged or truncated: " + what + " is " + std::to_string(*length) +
                     " bytes long where the file has " + std::to_string(left()) + " left,",
                 start);
    }
    if (*length > bytes_max) {
      return bad(what + " is " + std::to_string(*length) + " bytes long, more than " +
                     std::to_string(bytes_max) + ",",
                 start);
    }
    const std::string_view text(reinterpret_cast<const char*>(bytes_.data() + at_), *length);
    at_ += *length;
    return text;
  }

  Result<void> read_header(std::uint64_t& tensor_count, std::uint64_t& key_count) {
    if (bytes_.empty())
      return Error{Errc::kBadFile, file_.name_ + ": the file is empty; a GGUF file was expected"};
    auto magic = read<std::uint32_t>("the magic number");
    if (!magic) return std::move(magic).error();
    if (*magic != kMagic) return bad("no GGUF file: the magic number 'GGUF' is missing", 0);
    auto version = read<std::uint32_t>("the version");
    if (!version) return std::move(version).error();
    if (*version != 0 && (*version & 0xffff) == 0) {
      return Error{Errc::kUnsupported,
                   file_.name_ + ": a big-endian GGUF file; only little-endian ones are read"};
    }
    if (*version != 2 && *version != 3) {
      return Error{Errc::kUnsupported, file_.name_ + ": GGUF version " + std::to_string(*version) +
                                           " at byte 4; versions 2 and 3 are read"};
    }
    file_.version_ = *version;
    auto tensors = read<std::uint64_t>("the tensor count");
    if (!tensors) return std::move(tensors).error();
    auto keys = read<std::uint64_t>("the metadata count");
    if (!keys) return std::move(keys).error();
    if (*keys > kMetadataKeysMax || *keys > left() / kMetadataEntryBytesMin) {
      return bad("damaged or truncated: metadata count " + std::to_string(*keys) + " where at most " +
                     std::to_string(std::min(kMetadataKeysMax, left() / kMetadataEntryBytesMin)) + " can be,",
                 16);
    }
    if (*tensors > kTensorsMax || *tensors > left() / kTensorEntryBytesMin) {
      return bad("damaged or truncated: tensor count " + std::to_string(*tensors) + " where at most " +
                     std::to_string(std::min(kTensorsMax, left() / kTensorEntryBytesMin)) + " can be,",
                 8);
    }
    tensor_count = *tensors;
    key_count = *keys;
    return {};
  }

  Result<void> read_metadata(std::uint64_t count) {
    file_.keys_.reserve(count);
    file_.values_.reserve(count);
    for (std::uint64_t i = 0; i < count; ++i) {
      const std::uint64_t start = at_;
      auto key = read_string("metadata key " + std::to_string(i), kNameBytesMax);
      if (!key) return std::move(key).error();
      const std::string what = "metadata key " + quote(*key);
      if (key->empty()) return bad("metadata key " + std::to_string(i) + " is empty", start);
      auto value = read_value(what);
      if (!value) return std::move(value).error();
      if (!file_.values_.emplace(*key, *value).second) return bad(what + " occurs twice, again", start);
      file_.keys_.push_back(*key);
      if (at_ > kHeaderBytesMax)
        return bad("metadata is longer than " + std::to_string(kHeaderBytesMax), at_);
    }
    return {};
  }

  Result<GgufType> read_type(const std::string& what) {
    const std::uint64_t start = at_;
    auto type = read<std::uint32_t>(what, ": the value type");
    if (!type) return std::move(type).error();
    if (*type > static_cast<std::uint32_t>(GgufType::kFloat64)) {
      return bad(what + " has value type " + std::to_string(*type) + "; types 0 to 12 exist;", start);
    }
    return static_cast<GgufType>(*type);
  }

  Result<GgufValue> read_value(const std::string& what) {
    auto type = read_type(what);
    if (!type) return std::move(type).error();
    GgufValue value;
    value.type = *type;
    if (*type == GgufType::kArray) {
      if (auto done = read_array(what, value, 1); !done) return std::move(done).error();
      return value;
    }
    if (*type == GgufType::kString) {
      auto text = read_string(what, std::numeric_limits<std::uint64_t>::max());
      if (!text) return std::move(text).error();
      value.file_offset = at_ - text->size();
      value.data = bytes_.subspan(value.file_offset, text->size());
      return value;
    }
    const std::uint64_t size = scalar_bytes(*type);
    if (auto enough = need(size, what, {}); !enough) return std::move(enough).error();
    value.file_offset = at_;
    value.data = bytes_.subspan(at_, size);
    at_ += size;
    return value;
  }

  /// Element type, count and elements. Strings and inner arrays are walked once, so that later readers need
  /// not check.
  Result<void> read_array(const std::string& what, GgufValue& value, int depth) {
    if (depth > kArrayDepthMax) {
      return bad(what + " nests arrays deeper than " + std::to_string(kArrayDepthMax), at_);
    }
    auto element = read_type(what);
    if (!element) return std::move(element).error();
    const std::uint64_t count_at = at_;
    auto count = read<std::uint64_t>(what, ": the array length");
    if (!count) return std::move(count).error();
    const std::uint64_t element_bytes_min = *element == GgufType::kString  ? 8
                                            : *element == GgufType::kArray ? 12
                                                                           : scalar_bytes(*element);
    if (*count > kArrayElementsMax || *count > left() / element_bytes_min) {
      return bad("damaged or truncated: " + what + " is an array of " + std::to_string(*count) +
                     " elements where at most " +
                     std::to_string(std::min(kArrayElementsMax, left() / element_bytes_min)) + " can be,",
                 count_at);
    }
    value.element_type = *element;
    value.count = *count;
    value.file_offset = at_;
    if (*element == GgufType::kString || *element == GgufType::kArray) {
      for (std::uint64_t i = 0; i < *count; ++i) {
        if (auto done = skip_element(what, *element, i, depth); !done) return done;
      }
    } else {
      at_ += *count * element_bytes_min;
    }
    value.data = bytes_.subspan(value.file_offset, at_ - value.file_offset);
    return {};
  }

  Result<void> skip_element(const std::string& what, GgufType element, std::uint64_t index, int depth) {
    if (element == GgufType::kArray) {
      GgufValue inner;
      return read_array(what, inner, depth + 1);
    }
    // The common case of 250k vocabulary strings: no message is built unless it is needed.
    if (left() >= 8) {
      const auto length = read_unaligned<std::uint64_t>(bytes_.subspan(at_));
      if (length <= left() - 8) {
        at_ += 8 + length;
        return {};
      }
    }
    auto text =
        read_string(what + " element " + std::to_string(index), std::numeric_limits<std::uint64_t>::max());
    if (!text) return std::move(text).error();
    return {};
  }

  Result<void> read_tensor_table(std::uint64_t count) {
    file_.tensors_.reserve(count);
    file_.tensor_index_.reserve(count);
    for (std::uint64_t i = 0; i < count; ++i) {
      const std::uint64_t start = at_;
      auto name = read_string("tensor name " + std::to_string(i), kNameBytesMax);
      if (!name) return std::move(name).error();
      if (name->empty()) return bad("tensor name " + std::to_string(i) + " is empty", start);
      if (!file_.tensor_index_.emplace(*name, i).second) {
        return bad("tensor " + quote(*name) + " occurs twice, again", start);
      }
      GgufTensor tensor;
      tensor.name = *name;
      if (auto done = read_tensor_entry("tensor " + quote(*name), tensor); !done) return done;
      file_.tensors_.push_back(std::move(tensor));
      if (at_ > kHeaderBytesMax)
        return bad("the tensor table is longer than " + std::to_string(kHeaderBytesMax), at_);
    }
    return {};
  }

  Result<void> read_tensor_entry(const std::string& what, GgufTensor& tensor) {
    const std::uint64_t dims_at = at_;
    auto dims = read<std::uint32_t>(what, ": the number of dimensions");
    if (!dims) return std::move(dims).error();
    if (*dims == 0 || *dims > kTensorDimsMax) {
      return bad(what + " has " + std::to_string(*dims) + " dimensions, not 1 to 4,", dims_at);
    }
    tensor.shape.resize(*dims);
    for (std::uint32_t i = 0; i < *dims; ++i) {
      const std::uint64_t dim_at = at_;
      auto size = read<std::uint64_t>(what, ": a dimension");
      if (!size) return std::move(size).error();
      if (*size == 0) return bad(what + " has a dimension of size 0", dim_at);
      tensor.shape[*dims - 1 - i] = *size;
    }
    auto type = read<std::uint32_t>(what, ": the type");
    if (!type) return std::move(type).error();
    tensor.type_id = *type;
    tensor.dtype = dtype_of(*type);
    const std::uint64_t offset_at = at_;
    auto offset = read<std::uint64_t>(what, ": the offset");
    if (!offset) return std::move(offset).error();
    if (*offset > bytes_.size()) {
      return bad("damaged or truncated: " + what + " has offset " + std::to_string(*offset) +
                     ", beyond the file's " + std::to_string(bytes_.size()) + " bytes,",
                 offset_at);
    }
    tensor.file_offset = *offset;  // made absolute in place_tensors()
    return {};
  }

  Result<void> place_tensors() {
    std::uint64_t alignment = kAlignmentDefault;
    if (file_.has("general.alignment")) {
      auto given = file_.integer("general.alignment");
      if (!given) return std::move(given).error();
      if (*given <= 0 || std::cmp_greater(*given, kAlignmentMax) ||
          !std::has_single_bit(static_cast<std::uint64_t>(*given))) {
        return bad("metadata key 'general.alignment' is " + std::to_string(*given) +
                       ", not a power of two up to " + std::to_string(kAlignmentMax) + ",",
                   file_.find("general.alignment")->file_offset);
      }
      alignment = static_cast<std::uint64_t>(*given);
    }
    const std::uint64_t data_at = (at_ + alignment - 1) / alignment * alignment;
    for (GgufTensor& tensor : file_.tensors_) {
      if (auto done = place_tensor(tensor, data_at, alignment); !done) return done;
    }
    return check_overlap();
  }

  Result<void> place_tensor(GgufTensor& tensor, std::uint64_t data_at, std::uint64_t alignment) {
    const std::string what = "tensor " + quote(tensor.name);
    const std::uint64_t offset = tensor.file_offset;
    tensor.file_offset = data_at + offset;  // no overflow: both are at most the file's size plus 1 MiB
    if (offset % alignment != 0) {
      return Error{Errc::kBadFile, file_.name_ + ": " + what + " has offset " + std::to_string(offset) +
                                       ", not a multiple of the alignment " + std::to_string(alignment)};
    }
    if (!tensor.dtype) return {};  // reported when somebody wants it
    const std::uint64_t block = block_elements(*tensor.dtype);
    if (tensor.shape.back() % block != 0) {
      return Error{Errc::kBadFile, file_.name_ + ": " + what + " of type " +
                                       std::string(to_string(*tensor.dtype)) + " has rows of " +
                                       std::to_string(tensor.shape.back()) + " elements, not a multiple of " +
                                       std::to_string(block)};
    }
    std::uint64_t size = block_bytes(*tensor.dtype);
    bool overflow = __builtin_mul_overflow(size, tensor.shape.back() / block, &size);
    for (std::size_t i = 0; i + 1 < tensor.shape.size(); ++i) {
      overflow |= __builtin_mul_overflow(size, tensor.shape[i], &size);
    }
    if (overflow || tensor.file_offset > bytes_.size() || size > bytes_.size() - tensor.file_offset) {
      return Error{Errc::kBadFile, file_.name_ + ": truncated: " + what + " wants " +
                                       (overflow ? std::string("more than 2^64") : std::to_string(size)) +
                                       " bytes at byte " + std::to_string(tensor.file_offset) +
                                       ", the file ends at byte " + std::to_string(bytes_.size())};
    }
    tensor.data = bytes_.subspan(tensor.file_offset, size);
    return {};
  }

  Result<void> check_overlap() const {
    std::vector<const GgufTensor*> by_offset;
    by_offset.reserve(file_.tensors_.size());
    for (const GgufTensor& tensor : file_.tensors_) {
      if (!tensor.data.empty()) by_offset.push_back(&tensor);
    }
    std::ranges::sort(by_offset, {}, &GgufTensor::file_offset);
    for (std::size_t i = 1; i < by_offset.size(); ++i) {
      const GgufTensor& before = *by_offset[i - 1];
      const GgufTensor& after = *by_offset[i];
      if (before.file_offset + before.data.size() > after.file_offset) {
        return bad("tensors " + quote(before.name) + " and " + quote(after.name) + " overlap",
                   after.file_offset);
      }
    }
    return {};
  }

  std::span<const std::byte> bytes_;
  GgufFile& file_;
  std::uint64_t at_ = 0;  // <= bytes_.size()
};

Result<GgufFile> GgufFile::parse(std::span<const std::byte> bytes, std::string name) {
  GgufFile file;
  file.name_ = std::move(name);
  if (auto done = GgufParser(bytes, file).run(); !done) return std::move(done).error();
  return file;
}

}  // namespace spillway::model
