// SPDX-License-Identifier: Apache-2.0
// spillway generate --prompts: a file of requests as one continuously batched job.

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>

#include "tests/e2e/program.hpp"
#include "tests/support/catch.hpp"

namespace {

using namespace spillway::e2e;
namespace json = boost::json;

Ran batch(std::string_view lines, std::vector<std::string> more = {},
          const std::string& model = tiny_model().string()) {
  std::vector<std::string> arguments = {"generate", model, "--prompts", "-", "--json", "--temperature", "0"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return spillway::e2e::spillway(arguments, lines);
}

std::vector<json::value> parsed(const Ran& ran) {
  std::vector<json::value> values;
  for (const std::string& line : lines_of(ran.out)) values.push_back(json::parse(line));
  return values;
}

std::vector<std::string> keys(const json::value& value) {
  std::vector<std::string> names;
  for (const auto& member : value.as_object()) names.emplace_back(std::string_view(member.key()));
  return names;
}

/// A prompt of its own for each number, with lengths from 5 to 44 characters.
std::string prompt(int i) {
  return "No " + std::to_string(i) + std::string(static_cast<std::size_t>(i * 7 % 40), 'a');
}

}  // namespace

TEST_CASE("batch: output lines have the documented fields, in the order of the input") {
  const Ran ran =
      batch(R"({"prompt": "first, and much longer than the others", "id": "ä\"\n", "max_tokens": 30}
{"prompt_token_ids": [104, 105], "id": 12345678901234567890, "max_tokens": 1}

{"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, "logprobs": 1}
{"prompt": "two", "n": 2, "max_tokens": 2, "id": -1.5})");
  INFO(ran.err);
  CHECK(ran.code == 0);
  CHECK(ran.err.empty());
  const std::vector<json::value> lines = parsed(ran);
  REQUIRE(lines.size() == 5);
  for (const json::value& line : lines) {
    CHECK(keys(line) == std::vector<std::string>{"id", "index", "prompt_token_ids", "text", "token_ids",
                                                 "finish_reason", "logprobs", "usage"});
    CHECK(keys(line.at("usage")) ==
          std::vector<std::string>{"prompt_tokens", "completion_tokens", "cached_tokens"});
    CHECK(line.at("usage").at("prompt_tokens") == line.at("prompt_token_ids").as_array().size());
    CHECK(line.at("usage").at("completion_tokens") == line.at("token_ids").as_array().size());
  }
  CHECK(lines[0].at("id") == "ä\"\n");
  CHECK(lines[1].at("id") == 12345678901234567890U);
  CHECK(lines[1].at("prompt_token_ids") == json::parse("[104,105]"));
  CHECK(lines[2].at("id") == 2);  // the third request; blank lines do not count
  CHECK(keys(lines[2].at("logprobs").at(0)) == std::vector<std::string>{"token_id", "logprob", "top"});
  CHECK(lines[0].at("logprobs").is_null());
  CHECK(lines[3].at("index") == 0);
  CHECK(lines[4].at("index") == 1);
  CHECK(lines[4].at("id") == -1.5);
}

TEST_CASE("batch: a malformed line is named before anything runs") {
  struct Case {
    const char* line;
    const char* part;
  };
  for (const Case& each : std::initializer_list<Case>{
           {"oops", "not valid JSON"},
           {"[1]", "an object"},
           {R"({"max_tokens": 3})", "prompt_token_ids"},
           {R"({"prompt": "a", "messages": []})", "exclude each other"},
           {R"({"prompt": 3})", "prompt is a number"},
           {R"({"prompt": "a", "max_token": 3})", "did you mean max_tokens?"},
           {R"({"prompt": "a", "max_tokens": "3"})", "max_tokens is a string"},
           {R"({"prompt": "a", "max_tokens": 1.5})", "max_tokens is 1.5"},
           {R"({"prompt": "a", "temperature": -1})", "temperature is -1"},
           {R"({"prompt": "a", "stop": [1]})", "stop[0] is a number"},
           {R"({"prompt": "a", "ignore_eos": 1})", "ignore_eos is a number"},
           {R"({"prompt_token_ids": [1, -1]})", "prompt_token_ids[1] is -1"},
           {R"({"prompt_token_ids": [128]})", "128"},
           {R"({"messages": [{"role": "user"}]})", "messages[0] has no content"},
           {R"({"messages": [{"role": "user", "content": "x", "name": "y"}]})", "messages[0].name"},
           {R"({"prompt": "a", "id": [1]})", "id is a list"},
       }) {
    INFO(each.line);
    const Ran ran = batch(std::string("{\"prompt\": \"fine\"}\n") + each.line + "\n");
    INFO(ran.err);
    CHECK(ran.code == 2);
    CHECK(ran.out.empty());
    CHECK(lines_of(ran.err).size() == 1);
    CHECK(ran.err.starts_with("spillway: stdin:2: "));
    CHECK(ran.err.find(each.part) != std::string::npos);
  }
}

TEST_CASE("batch: malformed lines are found even when the model does not exist") {
  const Ran ran = batch("{\"prompt\": 1}\n", {}, "/nonexistent");
  CHECK(ran.code == 2);
  CHECK(ran.err.find("stdin:1") != std::string::npos);
}

TEST_CASE("batch: a file's lines are named by its path, and a file without lines is refused") {
  const std::filesystem::path file = write_file("wrong.jsonl", "{\"prompt\": \"a\"}\nx\ny\n");
  const Ran ran =
      spillway::e2e::spillway({"generate", tiny_model().string(), "--prompts", file.string(), "--json"});
  CHECK(ran.code == 2);
  CHECK(ran.err.find("wrong.jsonl:2: ") != std::string::npos);
  CHECK(ran.err.find("1 more") != std::string::npos);
  CHECK(batch("\n \n").code == 2);
}

TEST_CASE("batch: a refused request answers in its place, the others go on, and the exit code is 1") {
  const Ran ran = batch("{\"prompt\": \"ok\"}\n{\"prompt\": \"" + std::string(600, 'x') +
                            "\", \"id\": \"long\"}\n{\"prompt\": \"\"}\n{\"prompt\": \"ok\", \"n\": "
                            "100000}\n{\"prompt\": \"ok\"}\n",
                        {"--max-tokens", "3", "--ignore-eos"});
  CHECK(ran.code == 1);
  const std::vector<json::value> lines = parsed(ran);
  REQUIRE(lines.size() == 5);
  CHECK(lines[0].at("token_ids") == lines[4].at("token_ids"));
  for (const int refused : {1, 2, 3}) {
    const json::value& line = lines[static_cast<std::size_t>(refused)];
    CHECK(keys(line) == std::vector<std::string>{"id", "index", "error"});
    CHECK(keys(line.at("error")) == std::vector<std::string>{"message"});
  }
  CHECK(lines[1].at("id") == "long");
  CHECK(std::string_view(lines[1].at("error").at("message").as_string()).find("512") !=
        std::string_view::npos);
}

TEST_CASE("batch: a prompt that the KV memory cannot hold is refused alone") {
  // 512 bytes a token in fp32: 64 KiB hold 128 tokens.
  const Ran ran = batch("{\"prompt\": \"" + std::string(200, 'x') + "\"}\n{\"prompt\": \"ok\"}\n",
                        {"--kv-cache-memory-bytes", "64KiB", "--max-tokens", "3"});
  CHECK(ran.code == 1);
  const std::vector<json::value> lines = parsed(ran);
  REQUIRE(lines.size() == 2);
  CHECK(std::string_view(lines[0].at("error").at("message").as_string()).find("--kv-cache-memory-bytes") !=
        std::string_view::npos);
  CHECK(lines[1].at("text").is_string());
}

TEST_CASE("batch: 1000 prompts at once answer in order, and each as if it were alone") {
  std::string lines;
  for (int i = 0; i < 1000; ++i) lines += "{\"prompt\": \"" + prompt(i) + "\"}\n";
  const Ran ran = batch(lines, {"--max-tokens", "16"});
  CHECK(ran.code == 0);
  const std::vector<json::value> answers = parsed(ran);
  REQUIRE(answers.size() == 1000);
  for (int i = 0; i < 1000; ++i) CHECK(answers[static_cast<std::size_t>(i)].at("id") == i);
  for (const int i : {0, 1, 63, 64, 500, 999}) {
    const Ran alone = spillway::e2e::spillway({"generate", tiny_model().string(), "--prompt", prompt(i),
                                               "--json", "--temperature", "0", "--max-tokens", "16"});
    INFO("prompt " << i);
    CHECK(json::parse(alone.out).at("token_ids") == answers[static_cast<std::size_t>(i)].at("token_ids"));
  }
}

TEST_CASE("batch: preempted requests answer as if they had not been") {
  std::string lines;
  for (int i = 0; i < 24; ++i) lines += "{\"prompt\": \"" + prompt(i) + "\"}\n";
  const std::vector<std::string> base = {"--max-tokens", "60", "--ignore-eos"};
  std::vector<std::string> tight = base;
  tight.insert(tight.end(),
               {"--kv-cache-memory-bytes", "256KiB", "--stats"});  // 512 tokens for up to 24 * 104
  const Ran roomy = batch(lines, base), crowded = batch(lines, tight);
  CHECK(roomy.code == 0);
  CHECK(crowded.code == 0);
  CHECK(crowded.err.find(" 0 preemptions") == std::string::npos);
  const std::vector<json::value> a = parsed(roomy), b = parsed(crowded);
  REQUIRE(a.size() == b.size());
  for (std::size_t i = 0; i < a.size(); ++i) CHECK(a[i].at("token_ids") == b[i].at("token_ids"));
}

TEST_CASE("batch: the prefix cache saves prompt tokens and changes no answer") {
  std::string lines;
  for (int i = 0; i < 6; ++i)
    lines += "{\"prompt\": \"" + std::string(100, 's') + " question " + std::to_string(i) + "\"}\n";
  const std::vector<json::value> on = parsed(batch(lines, {"--max-num-seqs", "1", "--max-tokens", "8"}));
  const std::vector<json::value> off =
      parsed(batch(lines, {"--max-num-seqs", "1", "--max-tokens", "8", "--no-enable-prefix-caching"}));
  REQUIRE(on.size() == 6);
  REQUIRE(off.size() == 6);
  for (std::size_t i = 0; i < 6; ++i) {
    CHECK(on[i].at("token_ids") == off[i].at("token_ids"));
    CHECK(off[i].at("usage").at("cached_tokens") == 0);
  }
  CHECK(on[5].at("usage").at("cached_tokens").to_number<int>() >= 96);  // whole blocks of 16
}

TEST_CASE("batch: a line's own sampling wins over the command line's") {
  const std::vector<json::value> lines =
      parsed(batch("{\"prompt\": \"a\"}\n{\"prompt\": \"a\", \"max_tokens\": 2}\n",
                   {"--max-tokens", "5", "--ignore-eos"}));
  REQUIRE(lines.size() == 2);
  CHECK(lines[0].at("token_ids").as_array().size() == 5);
  CHECK(lines[1].at("token_ids").as_array().size() == 2);
}

TEST_CASE("batch: sampled answers depend on the seed alone, not on the company") {
  const std::string line = "{\"prompt\": \"dice\", \"temperature\": 1, \"seed\": 5, \"max_tokens\": 20}\n";
  std::string crowd;
  for (int i = 0; i < 20; ++i) crowd += "{\"prompt\": \"" + prompt(i) + "\", \"max_tokens\": 20}\n";
  const std::vector<json::value> alone = parsed(batch(line)), among = parsed(batch(crowd + line));
  CHECK(among.at(20).at("token_ids") == alone.at(0).at("token_ids"));
}

TEST_CASE("batch: as text, answers have a header each") {
  const Ran ran = spillway::e2e::spillway({"generate", tiny_model().string(), "--prompts", "-",
                                           "--temperature", "0", "--max-tokens", "3", "--ignore-eos"},
                                          "{\"prompt\": \"a\", \"id\": \"x\"}\n{\"prompt\": \"b\"}\n");
  CHECK(ran.code == 0);
  CHECK(ran.out.starts_with("--- \"x\" ---\n"));
  CHECK(ran.out.find("\n--- 1 ---\n") != std::string::npos);
}
