// SPDX-License-Identifier: Apache-2.0
#include "runtime/tracer.hpp"

#include <cctype>
#include <cstdio>
#include <fstream>
#include <sstream>
#include <thread>

#include "tests/runtime/probe.hpp"
#include "tests/support/catch.hpp"

namespace spillway::runtime {
namespace {

using namespace probe;
using namespace std::chrono_literals;

/// Accepts exactly JSON (RFC 8259), without building anything.
class JsonCheck {
 public:
  static bool valid(const std::string& text) {
    JsonCheck check(text);
    return check.value() && (check.space(), check.at_ == text.size());
  }

 private:
  explicit JsonCheck(const std::string& text) : text_(text) {}
  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  void space() {
    while (at_ < text_.size() && std::isspace(static_cast<unsigned char>(text_[at_]))) ++at_;
  }
  bool eat(char c) {
    space();
    if (peek() != c) return false;
    ++at_;
    return true;
  }
  bool string() {
    if (!eat('"')) return false;
    for (; at_ < text_.size(); ++at_) {
      const auto c = static_cast<unsigned char>(text_[at_]);
      if (c == '"') return ++at_, true;
      if (c < 0x20) return false;
      if (c == '\\') {
        ++at_;
        if (peek() == 'u') at_ += 4;
      }
    }
    return false;
  }
  bool number() {
    const std::size_t start = at_;
    if (peek() == '-') ++at_;
    while (std::isdigit(static_cast<unsigned char>(peek()))) ++at_;
    if (peek() == '.') {
      ++at_;
      while (std::isdigit(static_cast<unsigned char>(peek()))) ++at_;
    }
    return at_ > start;
  }
  bool list(char close, bool object) {
    if (eat(close)) return true;
    do {
      if (object && (space(), !string() || !eat(':'))) return false;
      if (!value()) return false;
    } while (eat(','));
    return eat(close);
  }
  bool value() {
    space();
    if (eat('{')) return list('}', true);
    if (eat('[')) return list(']', false);
    if (peek() == '"') return string();
    return number();
  }

  const std::string& text_;
  std::size_t at_ = 0;
};

std::string text_of(const Tracer& tracer) {
  std::ostringstream out;
  tracer.write(out);
  return out.str();
}

std::size_t count_of(const std::string& text, const std::string& what) {
  std::size_t count = 0;
  for (std::size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++count;
  return count;
}

}  // namespace

TEST_CASE("tracer: messages and waits of actors become spans under the actors' names") {
  Tracer tracer;
  Log log;
  SimExecutor sim(SimOptions{.tracer = &tracer});
  const auto to = sim.spawn<ProbeMessage>({.name = "recorder"}, recorder, &log);
  for (int i = 0; i < 3; ++i) {
    to.post(Put{i});
    sim.run_for(1ms);
  }
  CHECK(ask_blocking<int>(sim, to, make_get(1)).value() == 2);
  const std::string text = text_of(tracer);
  CHECK(JsonCheck::valid(text));
  CHECK(count_of(text, R"("name":"Put")") == 3);
  CHECK(count_of(text, R"("name":"Get")") == 1);
  CHECK(count_of(text, R"("name":"wait: mail")") >= 3);
  CHECK(count_of(text, "recorder #1") == 1);
  CHECK(count_of(text, R"("dur":1000.000)") >= 2);  // 1 ms between messages, in virtual time
}

TEST_CASE("tracer: devices trace from their own threads, with arguments") {
  Tracer tracer;
  const TrackId copies = tracer.add_track("device 0", "copies");
  std::thread device([&] {
    tracer.trace_span(copies, "copy", TimePoint{} + 1500ns, TimePoint{} + 4ms, {{"bytes", 4096}, {"blocks", -1}});
  });
  device.join();
  const std::string text = text_of(tracer);
  CHECK(JsonCheck::valid(text));
  CHECK(count_of(text, R"("ts":1.500,"dur":3998.500,"name":"copy","args":{"bytes":4096,"blocks":-1})") == 1);
  CHECK(count_of(text, R"("name":"process_name")") == 1);
}

TEST_CASE("tracer: any name gives valid JSON, and a long one loses no half character") {
  Tracer tracer;
  const TrackId track = tracer.add_track("quote \" back \\ line \n", "tab \t");
  tracer.trace_span(track, "a\"b\\c\x01", TimePoint{}, TimePoint{});
  const std::string long_name(46, 'x');
  tracer.trace_span(track, long_name + "\xC3\xA9", TimePoint{}, TimePoint{});
  const std::string text = text_of(tracer);
  CHECK(JsonCheck::valid(text));
  CHECK(count_of(text, "\"" + long_name + "\"") == 1);
}

TEST_CASE("tracer: a full buffer drops spans and says how many") {
  Tracer tracer(10);
  const TrackId track = tracer.add_track("t", "t");
  for (int i = 0; i < 25; ++i) tracer.trace_span(track, "s", TimePoint{}, TimePoint{});
  CHECK(tracer.recorded() == 10);
  CHECK(tracer.dropped() == 15);
  const std::string text = text_of(tracer);
  CHECK(JsonCheck::valid(text));
  CHECK(count_of(text, R"("dropped_spans":15)") == 1);
}

TEST_CASE("tracer: a file that cannot be written is an error that names it") {
  const Tracer tracer;
  const Result<void> result = tracer.write_file("/nowhere/at/all.json");
  REQUIRE_FALSE(result.ok());
  CHECK(result.error().code == Errc::kIo);
  CHECK(result.error().message.find("/nowhere/at/all.json") != std::string::npos);
}

TEST_CASE("message names: a type's own, a variant's alternative, or what message_name says") {
  CHECK(name_of(Put{1}) == "Put");
  CHECK(name_of(ProbeMessage{Quit{}}) == "Quit");
  CHECK(type_name<std::vector<int>>().substr(0, 6) == "vector");
}

}  // namespace spillway::runtime
