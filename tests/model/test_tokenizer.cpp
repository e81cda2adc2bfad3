// SPDX-License-Identifier: Apache-2.0
#include "model/tokenizer.hpp"

#include <algorithm>
#include <string>
#include <vector>

#include "model/gguf.hpp"
#include "model/unicode.hpp"
#include "tests/model/tokenizer_reference.hpp"
#include "tests/support/catch.hpp"

namespace spillway::model::test {
namespace {

/// A tokenizer.json of all bytes and a few merges; `extra` are further members of the document.
std::string tiny_json(std::string_view merges = R"("h e","l l","he ll")", std::string_view extra = "") {
  std::string vocab;
  for (int c = '!'; c <= '~'; ++c) {
    const std::string key = c == '"' || c == '\\' ? std::string("\\") + static_cast<char>(c)
                                                  : std::string(1, static_cast<char>(c));
    vocab += "\"" + key + "\":" + std::to_string(c - '!') + ",";
  }
  vocab += R"("Ġ":94,"he":95,"ll":96,"hell":97)";
  return R"({"model":{"type":"BPE","vocab":{)" + vocab + R"(},"merges":[)" + std::string(merges) +
         R"(]},"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"use_regex":true})" +
         (extra.empty() ? "" : "," + std::string(extra)) + "}";
}

/// How many of the texts give other ids than the reference; the first few are shown.
std::size_t count_differences(const Tokenizer& tokenizer, const std::vector<std::string>& texts,
                              const std::vector<std::string>& lines, std::size_t first, std::size_t stride) {
  std::size_t differences = 0;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    const ReferenceIds want = parse_ids(lines[i]);
    const std::string& text = texts.at(first + i * stride);
    const auto got = tokenizer.encode(text, {want.add_special_tokens, want.parse_special});
    if (got == want.ids) continue;
    ++differences;
    if (differences <= 5) UNSCOPED_INFO("texts.txt line " << first + i * stride + 1 << ": " << text);
  }
  return differences;
}

std::string message(const Result<Tokenizer>& result) {
  return result.ok() ? "no error" : result.error().message;
}

}  // namespace

TEST_CASE("tokenizer: SmolLM2 gives the ids of Hugging Face tokenizers") {
  if (!std::filesystem::exists(smollm2_path())) {
    WARN("skipped: there is no " << smollm2_path().string());
    return;
  }
  const auto file = GgufFile::open(smollm2_path());
  REQUIRE(file.ok());
  const auto tokenizer = Tokenizer::from_gguf(*file);
  REQUIRE(tokenizer.ok());
  const auto texts = reference_texts();
  const auto lines = read_lines(tokenizer_data("smollm2.ids"));
  REQUIRE(texts.size() > 2000);
  REQUIRE(lines.size() == texts.size());
  CHECK(count_differences(*tokenizer, texts, lines, 0, 1) == 0);

  // The vocabulary lacks the 21 bytes that its training text did not hold; all other text comes back.
  std::string missing;
  for (int byte = 0; byte < 256; ++byte)
    if (!tokenizer->token_to_id(std::string(1, static_cast<char>(byte)))) missing.push_back(static_cast<char>(byte));
  CHECK(missing.size() == 21);
  std::size_t came_back = 0;
  for (const std::string& text : texts) {
    std::string repaired;
    append_repaired_utf8(text, repaired);
    if (repaired.find_first_of(missing) != std::string::npos) continue;
    ++came_back;
    if (tokenizer->decode(tokenizer->encode(text), false) != repaired) FAIL("does not come back: " << text);
  }
  CHECK(came_back > 2000);
}

TEST_CASE("tokenizer: SmolLM2's facts come from its file") {
  if (!std::filesystem::exists(smollm2_path())) {
    WARN("skipped: there is no " << smollm2_path().string());
    return;
  }
  const auto file = GgufFile::open(smollm2_path());
  REQUIRE(file.ok());
  const auto tokenizer = Tokenizer::from_gguf(*file);
  REQUIRE(tokenizer.ok());
  CHECK(tokenizer->vocab_size() == 49152);
  CHECK(tokenizer->bos() == 1);
  CHECK(tokenizer->is_eos(2));
  CHECK(tokenizer->token_bytes(2) == "<|im_end|>");
  CHECK(tokenizer->token_to_id("<|im_end|>") == 2);
  CHECK(tokenizer->token_to_id(" the").has_value());
  CHECK(tokenizer->is_special(2));
  CHECK_FALSE(tokenizer->is_special(100));
  CHECK(tokenizer->token_bytes(-1).empty());
  CHECK(tokenizer->token_bytes(49152).empty());
  CHECK(tokenizer->encode("").empty());
}

TEST_CASE("tokenizer: each style of tokenizer.json gives the ids of Hugging Face tokenizers") {
  const auto texts = reference_texts();
  for (const std::string name : {"opt", "llama3", "qwen2", "rare"}) {
    INFO(name);
    const auto tokenizer = Tokenizer::from_tokenizer_json(tokenizer_data(name + ".json"));
    INFO(message(tokenizer));
    REQUIRE(tokenizer.ok());
    auto lines = read_lines(tokenizer_data(name + ".ids"));
    REQUIRE(lines.size() > 800);
    const std::size_t first = std::stoul(lines[0]);
    lines.erase(lines.begin());
    CHECK(count_differences(*tokenizer, texts, lines, first, 3) == 0);
  }
}

TEST_CASE("tokenizer: BOS stands before the text where the post-processor puts it") {
  const auto opt = Tokenizer::from_tokenizer_json(tokenizer_data("opt.json"));
  REQUIRE(opt.ok());
  CHECK(opt->encode("") == std::vector<TokenId>{2});
  CHECK(opt->encode("", {.add_special_tokens = false}).empty());
  CHECK(opt->encode("a").front() == 2);
}

TEST_CASE("tokenizer: special tokens in the text are text unless the caller trusts it") {
  const auto t = parse_tokenizer_json(
      tiny_json(R"("h e")",
                R"("added_tokens":[{"id":98,"content":"<end>","special":true,"normalized":false}])"),
      "t");
  INFO(message(t));
  REQUIRE(t.ok());
  CHECK(t->encode("he<end>", {.parse_special = true}) == std::vector<TokenId>{95, 98});
  const auto untrusted = t->encode("he<end>");
  CHECK(std::find(untrusted.begin(), untrusted.end(), 98) == untrusted.end());
  CHECK(t->decode(untrusted) == "he<end>");
  CHECK(t->decode(std::vector<TokenId>{95, 98}) == "he");
  CHECK(t->decode(std::vector<TokenId>{95, 98}, false) == "he<end>");
}

TEST_CASE("tokenizer: short and long pieces are merged alike") {
  // 48 bytes is where the scan gives way to the heap: a piece's beginning must not depend on what follows.
  const auto t = Tokenizer::from_tokenizer_json(tokenizer_data("opt.json"));
  REQUIRE(t.ok());
  for (const std::string unit : {"ab", "the", "aaa", "ing"}) {
    std::vector<TokenId> last;
    for (std::size_t repeats = 1; repeats < 40; ++repeats) {
      std::string text;
      for (std::size_t i = 0; i < repeats; ++i) text += unit;
      const auto ids = t->encode(text, {.add_special_tokens = false});
      CHECK(t->decode(ids) == text);
      for (std::size_t i = 0; i + 8 < std::min(last.size(), ids.size()); ++i)
        if (last[i] != ids[i]) FAIL(unit << " x " << repeats << ": token " << i << " changed");
      last = ids;
    }
  }
}

TEST_CASE("tokenizer: a megabyte without a break is encoded like its parts") {
  const auto t = parse_tokenizer_json(tiny_json(), "t");
  REQUIRE(t.ok());
  std::string text;
  while (text.size() < 1'000'000) text += "hello";
  const auto ids = t->encode(text);
  REQUIRE(ids.size() == text.size() / 5 * 2);
  CHECK(ids[0] == 97);
  CHECK(ids[1] == 'o' - '!');
  CHECK(t->decode(ids) == text);
  CHECK(t->encode(std::string(1'000'000, ' ')).size() == 1'000'000);
  CHECK(t->encode(std::string(1'000'000, '\xFF')).empty());  // U+FFFD, whose bytes this vocabulary lacks
}

TEST_CASE("tokenizer: a broken tokenizer.json is refused with the field's name") {
  const auto refused = [](std::string_view text, Errc code, std::string_view part) {
    const auto t = parse_tokenizer_json(text, "x/tokenizer.json");
    INFO(text.substr(0, 300) << "\n-> " << message(t));
    REQUIRE_FALSE(t.ok());
    CHECK(t.error().code == code);
    CHECK(t.error().message.find("x/tokenizer.json") == 0);
    CHECK(t.error().message.find(part) != std::string::npos);
  };
  REQUIRE(parse_tokenizer_json(tiny_json(), "t").ok());
  refused("", Errc::kBadFile, "JSON");
  refused("[]", Errc::kBadFile, "object");
  refused("{}", Errc::kBadFile, "model.vocab");
  refused(R"({"model":{"type":"Unigram"}})", Errc::kUnsupported, "Unigram");
  refused(R"({"model":{"vocab":{"a":-1},"merges":[]}})", Errc::kBadFile, "model.vocab");
  refused(R"({"model":{"vocab":{"a":4194304},"merges":[]}})", Errc::kBadFile, "model.vocab");
  refused(R"({"model":{"vocab":{"a":0}}})", Errc::kBadFile, "model.merges");
  refused(tiny_json(R"("h e","h z")"), Errc::kBadFile, "model.merges[1]");
  refused(tiny_json(R"("he")"), Errc::kBadFile, "model.merges[0]");
  refused(tiny_json(R"(["h","e","l"])"), Errc::kBadFile, "model.merges[0]");
  refused(tiny_json("7"), Errc::kBadFile, "model.merges[0]");
  refused(tiny_json("", R"("normalizer":{"type":"Lowercase"})"), Errc::kUnsupported, "Lowercase");
  refused(tiny_json("", R"("decoder":{"type":"WordPiece"})"), Errc::kUnsupported, "WordPiece");
  refused(tiny_json("", R"("post_processor":{"type":"Odd"})"), Errc::kUnsupported, "Odd");
  refused(
      tiny_json("", R"("post_processor":{"type":"RobertaProcessing","cls":["<s>",5000],"sep":["</s>",2]})"),
      Errc::kBadFile, "post_processor");
  refused(tiny_json("", R"("added_tokens":[{"id":9999999,"content":"x"}])"), Errc::kBadFile,
          "added_tokens[0].id");
  std::string no_byte_level = tiny_json();
  no_byte_level.replace(no_byte_level.find("ByteLevel"), 9, "Metaspace");
  refused(no_byte_level, Errc::kUnsupported, "Metaspace");
  std::string bad_regex = tiny_json();
  const std::string byte_level = R"({"type":"ByteLevel","add_prefix_space":false,"use_regex":true})";
  bad_regex.replace(bad_regex.find(byte_level), byte_level.size(),
                    R"({"type":"Split","pattern":{"Regex":"(a"},"behavior":"Isolated","invert":false})");
  refused(bad_regex, Errc::kBadFile, "pre_tokenizer.pattern");
}

TEST_CASE("tokenizer: a pattern made to explode ends and loses no text") {
  std::string json = tiny_json();
  const std::string byte_level = R"({"type":"ByteLevel","add_prefix_space":false,"use_regex":true})";
  json.replace(json.find(byte_level), byte_level.size(),
               R"({"type":"Sequence","pretokenizers":[)"
               R"({"type":"Split","pattern":{"Regex":"(?:(?:a+)+)+b"},"behavior":"Isolated","invert":false},)"
               R"({"type":"ByteLevel","add_prefix_space":false,"use_regex":false}]})");
  const auto t = parse_tokenizer_json(json, "t");
  INFO(message(t));
  REQUIRE(t.ok());
  const std::string text(5000, 'a');
  CHECK(t->decode(t->encode(text)) == text);
}

}  // namespace spillway::model::test
