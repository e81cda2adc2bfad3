// SPDX-License-Identifier: Apache-2.0
// spillway chat, fed from a pipe.

#include "tests/e2e/program.hpp"
#include "tests/support/catch.hpp"

namespace {

using namespace spillway::e2e;

Ran chat(std::string_view lines, std::vector<std::string> more = {}) {
  std::vector<std::string> arguments = {"chat", tiny_model().string(), "--temperature", "0", "--max-tokens",
                                        "12",   "--ignore-eos"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return spillway::e2e::spillway(arguments, lines);
}

}  // namespace

TEST_CASE("chat: each line gets an answer, and a piped conversation has no prompts in it") {
  const Ran ran = chat("hello\n");
  INFO(ran.err);
  CHECK(ran.code == 0);
  CHECK(ran.err.empty());
  CHECK(!ran.out.empty());
  CHECK(ran.out.ends_with('\n'));
  CHECK(ran.out.find('>') != 0);
}

TEST_CASE("chat: a turn finds the ones before it in the prefix cache") {
  const Ran ran = chat("a question that is longer than two whole blocks of KV\nand another\n", {"--stats"});
  CHECK(ran.code == 0);
  const std::vector<std::string> stats = lines_of(ran.err);
  REQUIRE(stats.size() == 2);
  CHECK(stats[0].find(" 0 of them cached") != std::string::npos);
  CHECK(stats[1].find(" 0 of them cached") == std::string::npos);
}

TEST_CASE("chat: what was said before counts, and /reset forgets it") {
  const std::string alone = chat("second\n").out;
  const std::string after = chat("first\nsecond\n").out;
  CHECK(!after.ends_with(alone));
  CHECK(chat("first\n/reset\nsecond\n").out.ends_with(alone));
}

TEST_CASE("chat: the system message changes the answer, from the option as from /system") {
  const std::string plain = chat("hello\n").out;
  const std::string told = chat("hello\n", {"--system", "be a pirate"}).out;
  CHECK(plain != told);
  CHECK(chat("/system be a pirate\nhello\n").out == told);
  CHECK(chat("/system\nhello\n", {"--system", "be a pirate"}).out == plain);
}

TEST_CASE("chat: commands answer on stderr and end the conversation when asked to") {
  const Ran ran = chat("/help\n/stats\n/nonsense\n/exit\nnever answered\n");
  CHECK(ran.code == 0);
  CHECK(ran.out.empty());
  CHECK(ran.err.find("/reset") != std::string::npos);
  CHECK(ran.err.find("no command '/nonsense'") != std::string::npos);
}

TEST_CASE("chat: a conversation that outgrows the context says so and can be reset") {
  const Ran ran = chat(std::string(80, 'a') + "\nshort\n/reset\nshort\n", {"--max-model-len", "64"});
  CHECK(ran.code == 1);
  CHECK(lines_of(ran.err).size() == 2);  // the refusal, and the reset
  CHECK(ran.err.find("--max-model-len 64") != std::string::npos);
  CHECK(!ran.out.empty());
}

TEST_CASE("chat: a model without a chat template is refused at the start") {
  const std::filesystem::path plain = scratch() / "no-template";
  std::filesystem::copy(tiny_model(), plain);
  std::filesystem::remove(plain / "tokenizer_config.json");
  const Ran ran = spillway::e2e::spillway({"chat", plain.string()}, "hello\n");
  CHECK(ran.code == 2);
  CHECK(ran.err.find("no chat template") != std::string::npos);
  CHECK(spillway::e2e::spillway({"generate", plain.string(), "--chat", "--prompt", "x"}).code == 2);
}
