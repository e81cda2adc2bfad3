// SPDX-License-Identifier: Apache-2.0
#include "model/detokenizer.hpp"

#include <algorithm>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "model/tokenizer.hpp"
#include "model/unicode.hpp"
#include "tests/model/tokenizer_reference.hpp"
#include "tests/support/catch.hpp"

namespace spillway::model::test {
namespace {

std::string repaired(std::string_view bytes) {
  std::string out;
  append_repaired_utf8(bytes, out);
  return out;
}

/// Cuts `text` where every prefix of it would first be found to hold a stop string, the plain way.
struct NaiveStop {
  std::string text;
  bool stopped = false;
};
NaiveStop naive_stop(const std::string& text, const std::vector<std::string>& stops) {
  for (std::size_t end = 1; end <= text.size(); ++end) {
    std::size_t longest = 0;
    for (const std::string& stop : stops)
      if (!stop.empty() && stop.size() <= end && text.compare(end - stop.size(), stop.size(), stop) == 0)
        longest = std::max(longest, stop.size());
    if (longest > 0) return {text.substr(0, end - longest), true};
  }
  return {text, false};
}

/// The longest end of `text` that a stop string properly begins with.
std::size_t naive_held(const std::string& text, const std::vector<std::string>& stops) {
  std::size_t longest = 0;
  for (const std::string& stop : stops)
    for (std::size_t size = 1; size < stop.size() && size <= text.size(); ++size)
      if (text.compare(text.size() - size, size, stop, 0, size) == 0) longest = std::max(longest, size);
  return longest;
}

}  // namespace

TEST_CASE("detokenizer: bytes that form no character become what Python makes of them") {
  const std::vector<std::pair<std::string, std::string>> cases = {
      // bytes, and b.decode('utf-8', 'replace') with ? for U+FFFD
      {"\xff", "?"},
      {"\xc3\xa9", "\xc3\xa9"},
      {"\xc3", "?"},
      {"\xc3\xc3\xa9", "?\xc3\xa9"},
      {"\x80"
       "a",
       "?a"},
      {"\xe2\x82", "?"},
      {"\xe2\x82"
       "x",
       "?x"},
      {"\xe2\x28\xa1", "?(?"},
      {"\xed\xa0\x80", "???"},
      {"\xf0\x9f\x98", "?"},
      {"\xf0\x9f\xf0\x9f\x98\x80", "?\xf0\x9f\x98\x80"},
      {"\xc0\xaf", "??"},
      {"\xf4\x90\x80\x80", "????"},
      {"\xf0\x80\x80\x80", "????"},
      {"\xe0\x80\x80", "???"},
      {"\xf8\x88\x80", "???"},
      {"\xe1\x80\xe2\xf0\x91\x92\xf1\xbf"
       "A",
       "????A"},
      {"\xf4\x8f\xbf\xbf", "\xf4\x8f\xbf\xbf"},
      {"", ""}};
  for (const auto& [bytes, marked] : cases) {
    std::string want;
    for (const char c : marked) c == '?' ? want += kReplacementCharacter : want += c;
    CHECK(repaired(bytes) == want);
    CHECK(is_valid_utf8(bytes) == (bytes == want));
  }
}

TEST_CASE("detokenizer: text cut anywhere comes out whole and never ends inside a character") {
  std::mt19937 random(1);
  const std::vector<std::string> parts = {
      "a",        " ",    "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80", "\xe2\x82", "\xf0\x9f\x98",
      "\xf0\x9f", "\xff", "\x80",     "\xc3",         "\xed\xa0",         "\xf4\x90", "\xe0"};
  for (int round = 0; round < 20000; ++round) {
    std::string bytes;
    for (std::size_t n = random() % 8; n > 0; --n) bytes += parts[random() % parts.size()];
    std::string text;
    Utf8Stream stream;
    for (std::size_t at = 0; at < bytes.size();) {
      const std::size_t size = std::min<std::size_t>(1 + random() % 5, bytes.size() - at);
      stream.push(std::string_view(bytes).substr(at, size), text);
      at += size;
      if (!is_valid_utf8(text)) FAIL("ends inside a character");
      // Nothing is held back but the beginning of a character.
      std::string whole = repaired(std::string_view(bytes).substr(0, at));
      if (!stream.holds_back() && whole != text) FAIL("held back without need");
    }
    stream.finish(text);
    if (text != repaired(bytes)) FAIL("round " << round);
  }
}

TEST_CASE("detokenizer: random tokens, half characters among them, join to the decoded whole") {
  const auto tokenizer = Tokenizer::from_tokenizer_json(tokenizer_data("llama3.json"));
  REQUIRE(tokenizer.ok());
  std::mt19937 random(2);
  for (int round = 0; round < 3000; ++round) {
    std::vector<TokenId> ids(random() % 30);
    for (TokenId& id : ids) {
      // Half of them single bytes: most of those are parts of characters.
      id =
          random() % 2 == 0 ? static_cast<TokenId>(random() % 258) : static_cast<TokenId>(random() % 910) - 4;
    }
    const bool skip_special = random() % 2 == 0;
    IncrementalDetokenizer detokenizer(*tokenizer, skip_special);
    std::string text;
    for (const TokenId id : ids) {
      const std::string delta = detokenizer.push(id);
      if (!is_valid_utf8(delta)) FAIL("a delta ends inside a character");
      text += delta;
    }
    text += detokenizer.finish();
    if (text != tokenizer->decode(ids, skip_special)) FAIL("round " << round);
  }
}

TEST_CASE("detokenizer: one emoji over several tokens appears with its last one") {
  const auto tokenizer = Tokenizer::from_tokenizer_json(tokenizer_data("opt.json"));
  REQUIRE(tokenizer.ok());
  std::vector<TokenId> bytes;
  for (const char byte : std::string("\xf0\x9f\x98\x80"))
    bytes.push_back(*tokenizer->token_to_id(std::string(1, byte)));
  IncrementalDetokenizer detokenizer(*tokenizer);
  CHECK(detokenizer.push(bytes[0]).empty());
  CHECK(detokenizer.push(bytes[1]).empty());
  CHECK(detokenizer.push(bytes[2]).empty());
  CHECK(detokenizer.push(bytes[3]) == "\xf0\x9f\x98\x80");
  CHECK(detokenizer.finish().empty());
  CHECK(detokenizer.push(bytes[0]).empty());
  CHECK(detokenizer.finish() == kReplacementCharacter);
  CHECK(detokenizer.finish().empty());
}

TEST_CASE("stop matcher: finds stop strings across pieces and keeps them out of the text") {
  StopMatcher stop({"</s>", "\n\nUser:"});
  auto out = stop.feed("Hello <");
  CHECK(out.text == "Hello ");
  CHECK_FALSE(out.stopped);
  out = stop.feed("b>\n");
  CHECK(out.text == "<b>");
  out = stop.feed("\nUs");
  CHECK(out.text.empty());
  out = stop.feed("er: more");
  CHECK(out.text.empty());
  CHECK(out.stopped);
  CHECK(stop.stopped());
  out = stop.feed("later");
  CHECK(out.text.empty());
  CHECK(out.stopped);
  CHECK(stop.finish().empty());
}

TEST_CASE("stop matcher: what is held back comes out at the end") {
  StopMatcher stop({"abcd"});
  CHECK(stop.feed("xxabc").text == "xx");
  CHECK(stop.finish() == "abc");
  StopMatcher none({});
  CHECK(none.feed("text").text == "text");
  CHECK(none.finish().empty());
  StopMatcher blank({""});
  CHECK(blank.feed("text").text == "text");
}

TEST_CASE("stop matcher: equals the plain search for random stop strings and cuts") {
  std::mt19937 random(3);
  const auto word = [&](std::size_t size_max) {
    std::string text;
    for (std::size_t n = 1 + random() % size_max; n > 0; --n) text += static_cast<char>('a' + random() % 3);
    return text;
  };
  std::size_t stopped = 0;
  for (int round = 0; round < 20000; ++round) {
    std::vector<std::string> stops(1 + random() % 5);
    for (std::string& stop : stops) stop = word(6);
    const std::string text = word(40);
    const NaiveStop want = naive_stop(text, stops);
    StopMatcher matcher(stops);
    std::string got;
    std::size_t at = 0;
    while (at < text.size() && !matcher.stopped()) {
      const std::size_t size = std::min<std::size_t>(1 + random() % 4, text.size() - at);
      got += matcher.feed(std::string_view(text).substr(at, size)).text;
      at += size;
      if (!matcher.stopped() && got.size() + naive_held(text.substr(0, at), stops) != at)
        FAIL("holds back too much");
    }
    got += matcher.finish();
    if (got != want.text || matcher.stopped() != want.stopped) FAIL("round " << round << ": " << text);
    stopped += want.stopped ? 1 : 0;
  }
  CHECK(stopped > 1000);
  CHECK(stopped < 19990);
}

}  // namespace spillway::model::test
