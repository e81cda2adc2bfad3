// SPDX-License-Identifier: Apache-2.0
#include "model/safetensors.hpp"

#include <cstring>
#include <string>

#include "tests/model/model_files.hpp"
#include "tests/support/catch.hpp"

using namespace spillway;
using namespace spillway::model;
using namespace spillway::model::testing;

namespace {

std::string failure(const std::string& bytes) {
  const auto tensors = parse_safetensors(as_bytes(bytes), "bad.safetensors");
  REQUIRE_FALSE(tensors.ok());
  const std::string& message = tensors.error().message;
  CHECK(message.find('\n') == std::string::npos);
  CHECK(message.starts_with("bad.safetensors"));
  return message;
}

bool contains(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

/// One tensor's header entry.
std::string entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  const std::string& offsets) {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape + ",\"data_offsets\":" + offsets +
         "}";
}

}  // namespace

TEST_CASE("safetensors: names, types, shapes and bytes are read") {
  const std::string bytes = safetensors({{"a", {2, 3}}, {"b", {4}, "BF16"}, {"c", {1}, "F16"}});
  const auto tensors = parse_safetensors(as_bytes(bytes), "ok.safetensors");
  REQUIRE(tensors.ok());
  REQUIRE(tensors->size() == 3);
  const SafetensorsEntry& a = (*tensors)[0];
  CHECK(a.name == "a");
  CHECK(a.dtype == DType::kF32);
  CHECK(a.shape == std::vector<std::uint64_t>{2, 3});
  CHECK(a.data.size() == 24);
  float second = 0;
  std::memcpy(&second, a.data.data() + 4, 4);
  CHECK(second == 0.01f);
  CHECK((*tensors)[1].dtype == DType::kBF16);
  CHECK((*tensors)[2].dtype == DType::kF16);
  CHECK((*tensors)[2].data.data() + 2 == as_bytes(bytes).data() + bytes.size());
}

TEST_CASE("safetensors: a type this build cannot use does not spoil the file") {
  const std::string bytes = safetensors_raw("{" + entry("a", "I64", "[1]", "[0,8]") + "}", 8);
  const auto tensors = parse_safetensors(as_bytes(bytes), "ok.safetensors");
  REQUIRE(tensors.ok());
  CHECK_FALSE((*tensors)[0].dtype.has_value());
  CHECK((*tensors)[0].dtype_name == "I64");
}

TEST_CASE("safetensors: the header's length is held to the file") {
  CHECK(contains(failure(""), "empty"));
  CHECK(contains(failure("1234"), "truncated: the header length"));
  CHECK(contains(failure(raw(~std::uint64_t{0}) + "{}"),
                 "the header length at byte 0 is 18446744073709551615"));
  CHECK(contains(failure(raw(std::uint64_t{3}) + "{}"), "is 3, the file has 2 bytes after it"));
  CHECK(contains(failure(raw(std::uint64_t{17} << 20) + std::string(std::size_t{17} << 20, ' ')),
                 "at most 16777216"));
}

TEST_CASE("safetensors: a header that is no JSON object of tensors is refused") {
  CHECK(contains(failure(safetensors_raw("{", 0)), "not valid JSON"));
  CHECK(contains(failure(safetensors_raw("[]", 0)), "no JSON object"));
  CHECK(contains(failure(safetensors_raw(std::string(100, '['), 0)), "not valid JSON"));
  CHECK(contains(failure(safetensors_raw("{\"a\":1}", 0)), "'a': its header entry is no object"));
  CHECK(contains(failure(safetensors_raw("{\"a\":{}}", 0)), "'dtype'"));
  CHECK(contains(failure(safetensors_raw("{\"a\":{\"dtype\":\"F32\"}}", 0)), "'shape'"));
  CHECK(contains(failure(safetensors_raw("{\"a\":{\"dtype\":\"F32\",\"shape\":[]}}", 0)), "'data_offsets'"));
  CHECK(contains(failure(safetensors_raw("{" + entry("a", "F32", "[-1]", "[0,4]") + "}", 4)),
                 "other than sizes"));
  CHECK(contains(failure(safetensors_raw("{" + entry("a", "F32", "[1.5]", "[0,4]") + "}", 4)),
                 "other than sizes"));
  CHECK(contains(failure(safetensors_raw("{" + entry("a", "F32", "[1]", "[4,0]") + "}", 4)), "no range"));
}

TEST_CASE("safetensors: offsets must lie in the file and agree with shape and type") {
  CHECK(contains(failure(safetensors_raw("{" + entry("a", "F32", "[2]", "[0,8]") + "}", 4)),
                 "'a': truncated: data_offsets [0, 8] reach beyond the 4 bytes"));
  CHECK(contains(failure(safetensors_raw("{" + entry("a", "F32", "[3]", "[0,8]") + "}", 8)), "hold 8 bytes"));
  CHECK(contains(
      failure(safetensors_raw("{" + entry("a", "F32", "[4294967296,4294967296,4]", "[0,8]") + "}", 8)),
      "more than 2^64"));
  CHECK(contains(failure(safetensors_raw(
                     "{" + entry("a", "F32", "[18446744073709551615]", "[0,18446744073709551615]") + "}", 8)),
                 "beyond"));
}

TEST_CASE("safetensors: tensors neither overlap nor leave holes") {
  const std::string a = entry("a", "F32", "[2]", "[0,8]");
  CHECK(contains(failure(safetensors_raw("{" + a + "," + entry("b", "F32", "[1]", "[4,8]") + "}", 8)),
                 "inside"));
  CHECK(contains(failure(safetensors_raw("{" + a + "," + entry("b", "F32", "[1]", "[12,16]") + "}", 16)),
                 "hole"));
  CHECK(contains(failure(safetensors_raw("{" + a + "}", 12)), "the tensors end at data byte 8"));
}

TEST_CASE("safetensors: shards are found through their index") {
  TempDir directory;
  directory.write("one.safetensors", safetensors({{"a", {2}}, {"unused", {1}}}));
  directory.write("two.safetensors", safetensors({{"b", {3}}}));
  directory.write("model.safetensors.index.json",
                  "{\"weight_map\":{\"b\":\"two.safetensors\",\"a\":\"one.safetensors\"}}");
  const auto model = SafetensorsModel::open(directory.path());
  REQUIRE(model.ok());
  CHECK(model->entries().size() == 2);
  REQUIRE(model->find("b") != nullptr);
  CHECK(model->find("b")->shape == std::vector<std::uint64_t>{3});
  CHECK(model->file_of(*model->find("b")) == (directory.path() / "two.safetensors").string());
  CHECK(model->find("unused") == nullptr);
}

TEST_CASE("safetensors: a wrong index is refused, and leads nowhere outside its directory") {
  TempDir directory;
  directory.write("one.safetensors", safetensors({{"a", {2}}}));
  const auto message = [&](const std::string& index) {
    directory.write("model.safetensors.index.json", index);
    const auto model = SafetensorsModel::open(directory.path());
    REQUIRE_FALSE(model.ok());
    return model.error().message;
  };
  CHECK(contains(message("{}"), "field 'weight_map' is missing"));
  CHECK(contains(message("{\"weight_map\":{\"a\":3}}"), "no file name for tensor 'a'"));
  CHECK(contains(message("{\"weight_map\":{\"b\":\"one.safetensors\"}}"),
                 "holds tensor 'b', which it does not"));
  CHECK(
      contains(message("{\"weight_map\":{\"a\":\"three.safetensors\"}}"), "three.safetensors: cannot open"));
  CHECK(contains(message("{\"weight_map\":{\"a\":\"../one.safetensors\"}}"), "without a path"));
  CHECK(contains(message("{\"weight_map\":{\"a\":\"/etc/passwd\"}}"), "without a path"));
  CHECK(SafetensorsModel::open("/nonexistent").error().code == Errc::kNotFound);
}

TEST_CASE("safetensors: a file cut short anywhere is refused, never read past its end") {
  const std::string whole = safetensors({{"a", {2, 3}}, {"b", {4}, "BF16"}});
  for (std::size_t size = 0; size < whole.size(); ++size) {
    const std::vector<std::byte> cut(as_bytes(whole).begin(),
                                     as_bytes(whole).begin() + static_cast<std::ptrdiff_t>(size));
    const auto tensors = parse_safetensors(cut, "cut.safetensors");
    REQUIRE_FALSE(tensors.ok());
    REQUIRE(tensors.error().message.find('\n') == std::string::npos);
  }
}
