// SPDX-License-Identifier: Apache-2.0
#include "model/gguf.hpp"

#include <cstring>
#include <limits>
#include <string>

#include "tests/model/model_files.hpp"
#include "tests/support/catch.hpp"

using namespace spillway;
using namespace spillway::model;
using namespace spillway::model::testing;

namespace {

constexpr std::uint64_t kHuge = std::numeric_limits<std::uint64_t>::max();

/// The one-line message with which parsing must fail.
std::string failure(const std::string& bytes) {
  const auto file = GgufFile::parse(as_bytes(bytes), "bad.gguf");
  REQUIRE_FALSE(file.ok());
  const std::string& message = file.error().message;
  CHECK(message.find('\n') == std::string::npos);
  CHECK(message.starts_with("bad.gguf: "));
  return message;
}

bool contains(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

std::string floats(std::size_t count) { return std::string(count * 4, '\0'); }

}  // namespace

TEST_CASE("gguf: every scalar type is read as what it is") {
  const std::string bytes = GgufBuilder()
                                .value("u8", 0, raw(std::uint8_t{200}))
                                .value("i8", 1, raw(std::int8_t{-3}))
                                .value("u16", 2, raw(std::uint16_t{60000}))
                                .value("i16", 3, raw(std::int16_t{-300}))
                                .value("u32", 4, raw(std::uint32_t{4000000000}))
                                .value("i32", 5, raw(std::int32_t{-70000}))
                                .value("f32", 6, raw(1.5f))
                                .value("bool", 7, raw(std::uint8_t{1}))
                                .value("string", 8, gguf_string("h\xc3\xa9llo"))
                                .value("u64", 10, raw(std::uint64_t{1} << 40))
                                .value("i64", 11, raw(std::int64_t{-1}))
                                .value("f64", 12, raw(0.1))
                                .build();
  const auto file = GgufFile::parse(as_bytes(bytes), "ok.gguf");
  REQUIRE(file.ok());
  CHECK(*file->integer("u8") == 200);
  CHECK(*file->integer("i8") == -3);
  CHECK(*file->integer("u16") == 60000);
  CHECK(*file->integer("i16") == -300);
  CHECK(*file->integer("u32") == 4000000000);
  CHECK(*file->integer("i32") == -70000);
  CHECK(*file->number("f32") == 1.5);
  CHECK(*file->boolean("bool"));
  CHECK(*file->string("string") == "h\xc3\xa9llo");
  CHECK(*file->integer("u64") == std::int64_t{1} << 40);
  CHECK(*file->integer("i64") == -1);
  CHECK(*file->number("f64") == 0.1);
  CHECK(*file->number("i8") == -3.0);
  CHECK(file->keys().size() == 12);
  CHECK(file->keys().front() == "u8");
}

TEST_CASE("gguf: arrays of strings, numbers and arrays are walked and read") {
  std::string nested = raw(std::uint32_t{9}) + raw(std::uint64_t{2});
  nested += raw(std::uint32_t{4}) + raw(std::uint64_t{2}) + raw(1u) + raw(2u);
  nested += raw(std::uint32_t{8}) + raw(std::uint64_t{1}) + gguf_string("x");
  const std::string bytes =
      GgufBuilder()
          .strings("words", {"a", "", "ccc"})
          .value("floats", 9, raw(std::uint32_t{6}) + raw(std::uint64_t{2}) + raw(0.5f) + raw(-1.0f))
          .value("ints", 9, raw(std::uint32_t{5}) + raw(std::uint64_t{3}) + raw(1) + raw(-2) + raw(3))
          .value("nested", 9, nested)
          .u32("after", 7)
          .build();
  const auto file = GgufFile::parse(as_bytes(bytes), "ok.gguf");
  REQUIRE(file.ok());
  CHECK(*file->strings("words") == std::vector<std::string_view>{"a", "", "ccc"});
  CHECK(*file->numbers("floats") == std::vector<float>{0.5f, -1.0f});
  CHECK(*file->integers("ints") == std::vector<std::int64_t>{1, -2, 3});
  CHECK(*file->numbers("ints") == std::vector<float>{1, -2, 3});
  CHECK(file->find("nested")->count == 2);
  CHECK(*file->integer("after") == 7);
}

TEST_CASE("gguf: a getter for another type names the key, the type found and the one wanted") {
  const std::string bytes = GgufBuilder()
                                .string("s", "x")
                                .u32("n", 1)
                                .f32("f", 2)
                                .strings("a", {"x"})
                                .value("flag", 7, raw(std::uint8_t{2}))
                                .value("big", 10, raw(kHuge))
                                .build();
  const auto file = GgufFile::parse(as_bytes(bytes), "ok.gguf");
  REQUIRE(file.ok());
  CHECK(contains(file->integer("s").error().message, "'s' has type string where an integer"));
  CHECK(contains(file->integer("f").error().message, "'f' has type float32"));
  CHECK(contains(file->string("n").error().message, "'n' has type uint32 where a string"));
  CHECK(contains(file->strings("n").error().message, "an array of strings"));
  CHECK(contains(file->integers("a").error().message, "array of string"));
  CHECK(contains(file->boolean("flag").error().message, "0 or 1"));
  CHECK(contains(file->integer("big").error().message, "below 2^63"));
  CHECK(file->integer("none").error().code == Errc::kNotFound);
  CHECK(contains(file->integer("none").error().message, "'none' is missing"));
}

TEST_CASE("gguf: tensors have their shape outermost first and their bytes where the table says") {
  std::string first = raw(1.0f) + raw(2.0f) + raw(3.0f) + raw(4.0f) + raw(5.0f) + raw(6.0f);
  const std::string bytes =
      GgufBuilder().tensor("a", 0, {2, 3}, first).tensor("q", 2, {2, 64}, std::string(4 * 18, 'q')).build();
  const auto file = GgufFile::parse(as_bytes(bytes), "ok.gguf");
  REQUIRE(file.ok());
  const auto a = file->tensor("a");
  REQUIRE(a.ok());
  CHECK(a->shape == std::vector<std::uint64_t>{2, 3});
  CHECK(a->rows() == 2);
  CHECK(a->cols() == 3);
  CHECK(std::memcmp(a->data.data(), first.data(), first.size()) == 0);
  const auto q = file->tensor("q");
  REQUIRE(q.ok());
  CHECK(q->dtype == DType::kQ4_0);
  CHECK(q->data.size() == 4 * 18);
  CHECK(file->tensor("b").error().code == Errc::kNotFound);
}

TEST_CASE("gguf: version 2 and another alignment are read") {
  const std::string bytes =
      GgufBuilder(2).u32("general.alignment", 64).tensor("a", 0, {2}, raw(1.0)).build(64);
  const auto file = GgufFile::parse(as_bytes(bytes), "ok.gguf");
  REQUIRE(file.ok());
  CHECK(file->version() == 2);
  CHECK(file->find_tensor("a")->file_offset % 64 == 0);
}

TEST_CASE("gguf: a tensor of an unknown type is an error only for who wants it, naming tensor and type") {
  const std::string bytes = GgufBuilder()
                                .tensor("k", 12, {1, 256}, std::string(144, '\0'))
                                .tensor("x", 99, {1, 256}, "")
                                .tensor("f", 0, {1}, floats(1))
                                .build();
  const auto file = GgufFile::parse(as_bytes(bytes), "mixed.gguf");
  REQUIRE(file.ok());
  CHECK(file->tensor("f").ok());
  CHECK(file->tensor("k").error().code == Errc::kUnsupported);
  CHECK(contains(file->tensor("k").error().message, "mixed.gguf: tensor 'k' has type Q4_K"));
  CHECK(contains(file->tensor("x").error().message, "type 99"));
}

TEST_CASE("gguf: files that are not GGUF say so") {
  CHECK(contains(failure(""), "empty"));
  CHECK(contains(failure("GG"), "truncated: the magic number wants 4 bytes at byte 0"));
  CHECK(contains(failure("PK\x03\x04 some archive"), "'GGUF' is missing"));
  CHECK(contains(failure("GGUF" + raw(1u) + raw(kHuge) + raw(kHuge)), "version 1"));
  CHECK(contains(failure(std::string("GGUF\0\0\0\3", 8) + raw(kHuge) + raw(kHuge)), "big-endian"));
}

TEST_CASE("gguf: counts beyond the file are refused before anything is allocated") {
  CHECK(contains(failure("GGUF" + raw(3u) + raw(kHuge) + raw(std::uint64_t{0})),
                 "tensor count 18446744073709551615"));
  CHECK(contains(failure("GGUF" + raw(3u) + raw(std::uint64_t{0}) + raw(kHuge)), "metadata count"));
  CHECK(
      contains(failure("GGUF" + raw(3u) + raw(std::uint64_t{5}) + raw(std::uint64_t{0})), "tensor count 5"));
  const std::string array = raw(std::uint32_t{10}) + raw(std::uint64_t{1} << 61);
  CHECK(contains(failure(GgufBuilder().value("a", 9, array).build()),
                 "'a' is an array of 2305843009213693952"));
  const std::string strings = raw(std::uint32_t{8}) + raw(std::uint64_t{1} << 60);
  CHECK(contains(failure(GgufBuilder().value("a", 9, strings).build()), "'a' is an array of"));
  CHECK(contains(failure(GgufBuilder().value("s", 8, raw(kHuge)).build()),
                 "'s' is 18446744073709551615 bytes long"));
  CHECK(contains(failure(GgufBuilder().value("s", 8, raw(kHuge - 7)).build()), "bytes long"));
}

TEST_CASE("gguf: malformed metadata is refused with key and byte offset") {
  CHECK(
      contains(failure(GgufBuilder().u32("a", 1).u32("a", 2).build()), "'a' occurs twice, again at byte 41"));
  CHECK(contains(failure(GgufBuilder().value("a", 13, floats(4)).build()), "value type 13"));
  CHECK(contains(failure(GgufBuilder().value("", 4, raw(1u)).build()), "is empty at byte 24"));
  std::string deep;
  for (int i = 0; i < 5; ++i) deep += raw(std::uint32_t{9}) + raw(std::uint64_t{1});
  CHECK(
      contains(failure(GgufBuilder().value("a", 9, deep + floats(8)).build()), "nests arrays deeper than 4"));
  CHECK(contains(failure(GgufBuilder().u32("general.alignment", 0).build()), "power of two"));
  CHECK(contains(failure(GgufBuilder().u32("general.alignment", 48).build()), "power of two"));
  CHECK(contains(failure(GgufBuilder().string("general.alignment", "x").build()), "has type string"));
  CHECK(contains(failure(GgufBuilder().value("k\n\x1b", 13, floats(4)).build()), "'k\\x0a\\x1b'"));
}

TEST_CASE("gguf: malformed tensors are refused with name and reason") {
  CHECK(contains(failure(GgufBuilder().tensor("a", 0, {1}, floats(1)).tensor("a", 0, {1}, floats(1)).build()),
                 "'a' occurs twice"));
  CHECK(contains(failure(GgufBuilder().tensor("a", 0, {}, floats(9)).build()), "'a' has 0 dimensions"));
  CHECK(contains(failure(GgufBuilder().tensor("a", 0, {1, 1, 1, 1, 1}, floats(1)).build()),
                 "has 5 dimensions"));
  CHECK(contains(failure(GgufBuilder().tensor("a", 0, {0, 2}, floats(9)).build()), "dimension of size 0"));
  CHECK(contains(failure(GgufBuilder().tensor("a", 0, {3, 3}, floats(8)).build()),
                 "'a' wants 36 bytes at byte"));
  CHECK(contains(failure(GgufBuilder().tensor("a", 0, {kHuge, kHuge}, floats(8)).build()), "more than 2^64"));
  CHECK(contains(
      failure(
          GgufBuilder().tensor("a", 0, {std::uint64_t{1} << 32, std::uint64_t{1} << 30}, floats(8)).build()),
      "more than 2^64"));
  CHECK(contains(failure(GgufBuilder().tensor("a", 8, {2, 33}, floats(80)).build()), "not a multiple of 32"));
  const std::string data = floats(64);
  CHECK(contains(failure(GgufBuilder().tensor("a", 0, {8}, data).tensor_at("b", 0, {1}, 4).build()),
                 "'b' has offset 4, not a multiple of the alignment 32"));
  CHECK(contains(failure(GgufBuilder().tensor("a", 0, {8}, data).tensor_at("b", 0, {1}, kHuge - 31).build()),
                 "beyond the file"));
  CHECK(contains(failure(GgufBuilder().tensor("a", 0, {16}, data).tensor_at("b", 0, {4}, 32).build()),
                 "'a' and 'b' overlap"));
}

TEST_CASE("gguf: a file cut short anywhere is refused, never read past its end") {
  const GgufBuilder builder = tiny_llama_gguf();
  const std::string whole = builder.build();
  REQUIRE(GgufFile::parse(as_bytes(whole), "whole").ok());
  for (std::size_t size = 0; size < builder.header_bytes(); ++size) {
    // A copy of exactly that size, so that a sanitizer sees every byte beyond it.
    const std::vector<std::byte> cut(as_bytes(whole).begin(),
                                     as_bytes(whole).begin() + static_cast<std::ptrdiff_t>(size));
    const auto file = GgufFile::parse(cut, "cut.gguf");
    REQUIRE_FALSE(file.ok());
    REQUIRE(file.error().message.find('\n') == std::string::npos);
  }
  CHECK_FALSE(GgufFile::parse(as_bytes(whole).first(whole.size() - 1), "cut.gguf").ok());
}

TEST_CASE("gguf: opening what is no regular file fails by name") {
  TempDir directory;
  CHECK(GgufFile::open(directory.path() / "none").error().code == Errc::kNotFound);
  CHECK(GgufFile::open(directory.path()).error().code == Errc::kInvalidArgument);
  CHECK(GgufFile::open("/dev/null").error().code == Errc::kInvalidArgument);
  CHECK(contains(GgufFile::open(directory.write("empty", "")).error().message, "the file is empty"));
}
