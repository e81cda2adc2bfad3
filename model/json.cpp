// SPDX-License-Identifier: Apache-2.0
#include "model/json.hpp"

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/stream_parser.hpp>
#include <boost/json/string.hpp>
#include <cmath>

#include "model/mapped_file.hpp"

namespace spillway::model {
namespace json = boost::json;

namespace {

std::string_view kind_name(const json::value& value) {
  switch (value.kind()) {
    case json::kind::null: return "null";
    case json::kind::bool_: return "a boolean";
    case json::kind::int64:
    case json::kind::uint64: return "an integer";
    case json::kind::double_: return "a number with a fraction";
    case json::kind::string: return "a string";
    case json::kind::array: return "an array";
    case json::kind::object: return "an object";
  }
  return "?";
}

std::string shortest(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.9g", value);
  return text;
}

}  // namespace

Result<json::value> parse_json(std::string_view text, std::string_view name) {
  json::parse_options options;
  options.max_depth = kJsonDepthMax;
  json::stream_parser parser({}, options);
  json::error_code code;
  // A byte order mark, as some editors leave it.
  const std::size_t skipped = text.starts_with("\xEF\xBB\xBF") ? 3 : 0;
  const std::size_t used = parser.write_some(text.data() + skipped, text.size() - skipped, code);
  std::size_t at = used + skipped;
  if (!code && used < text.size() - skipped) code = json::error::extra_data;
  if (!code) parser.finish(code);
  if (code) {
    return Error{Errc::kBadFile, std::string(name) + ": not valid JSON at byte " + std::to_string(at) + ": " +
                                     code.message()};
  }
  return parser.release();
}

Result<json::value> parse_json_file(const std::filesystem::path& path, std::size_t bytes_max) {
  auto file = MappedFile::open(path);
  if (!file) return std::move(file).error();
  const auto bytes = file->bytes();
  if (bytes.size() > bytes_max) {
    return Error{Errc::kBadFile, path.string() + ": " + std::to_string(bytes.size()) +
                                     " bytes long; at most " + std::to_string(bytes_max) + " are read"};
  }
  return parse_json({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, path.string());
}

Result<std::string> read_text_file(const std::filesystem::path& path, std::size_t bytes_max) {
  auto file = MappedFile::open(path);
  if (!file) return std::move(file).error();
  const auto bytes = file->bytes();
  if (bytes.size() > bytes_max) {
    return Error{Errc::kBadFile, path.string() + ": " + std::to_string(bytes.size()) +
                                     " bytes long; at most " + std::to_string(bytes_max) + " are read"};
  }
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

JsonField JsonField::operator[](std::string_view key) const {
  std::string path = path_.empty() ? std::string(key) : path_ + "." + std::string(key);
  if (!is_object()) return {nullptr, file_, std::move(path)};
  return {value_->get_object().if_contains(key), file_, std::move(path)};
}

JsonField JsonField::operator[](std::size_t index) const {
  std::string path = path_ + "[" + std::to_string(index) + "]";
  if (index >= size()) return {nullptr, file_, std::move(path)};
  return {&value_->get_array()[index], file_, std::move(path)};
}

std::size_t JsonField::size() const noexcept { return is_array() ? value_->get_array().size() : 0; }

Error JsonField::error(std::string_view what, Errc code) const {
  std::string message(file_);
  message += path_.empty() ? ": the document" : ": field '" + path_ + "'";
  message += ' ';
  message += what;
  return Error{code, std::move(message)};
}

Result<std::int64_t> JsonField::integer(std::int64_t min, std::int64_t max) const {
  const std::string range = "an integer from " + std::to_string(min) + " to " + std::to_string(max);
  if (!present()) return error("is missing; it must be " + range);
  std::int64_t found = 0;
  if (const auto* i = value_->if_int64()) {
    found = *i;
  } else if (const auto* d = value_->if_double();
             d != nullptr && *d == std::floor(*d) && std::fabs(*d) < 9e15) {
    found = static_cast<std::int64_t>(*d);  // 1e4 and 4096.0 occur in real configs
  } else if (value_->is_uint64()) {
    return error("is " + std::to_string(value_->get_uint64()) + "; it must be " + range);
  } else {
    return error("is " + std::string(kind_name(*value_)) + "; it must be " + range);
  }
  if (found < min || found > max) return error("is " + std::to_string(found) + "; it must be " + range);
  return found;
}

Result<double> JsonField::number(double min, double max) const {
  const std::string range = "a number from " + shortest(min) + " to " + shortest(max);
  if (!present()) return error("is missing; it must be " + range);
  if (!value_->is_number()) return error("is " + std::string(kind_name(*value_)) + "; it must be " + range);
  const double found = value_->to_number<double>();
  if (!(found >= min && found <= max)) return error("is " + shortest(found) + "; it must be " + range);
  return found;
}

Result<bool> JsonField::boolean() const {
  if (!present()) return error("is missing; it must be true or false");
  if (!value_->is_bool())
    return error("is " + std::string(kind_name(*value_)) + "; it must be true or false");
  return value_->get_bool();
}

Result<std::string_view> JsonField::string() const {
  if (!present()) return error("is missing; it must be a string");
  if (!value_->is_string()) return error("is " + std::string(kind_name(*value_)) + "; it must be a string");
  const json::string& text = value_->get_string();
  return std::string_view(text.data(), text.size());
}

Result<std::int64_t> JsonField::integer_or(std::int64_t fallback, std::int64_t min, std::int64_t max) const {
  if (!present()) return fallback;
  return integer(min, max);
}

Result<double> JsonField::number_or(double fallback, double min, double max) const {
  if (!present()) return fallback;
  return number(min, max);
}

Result<bool> JsonField::boolean_or(bool fallback) const {
  if (!present()) return fallback;
  return boolean();
}

Result<std::string_view> JsonField::string_or(std::string_view fallback) const {
  if (!present()) return fallback;
  return string();
}

}  // namespace spillway::model
