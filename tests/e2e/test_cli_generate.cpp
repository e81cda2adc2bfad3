// SPDX-License-Identifier: Apache-2.0
// One prompt: spillway generate, over small models with random weights.

#include <boost/json/parse.hpp>
#include <boost/json/value.hpp>
#include <boost/json/value_to.hpp>
#include <cmath>
#include <fstream>
#include <set>
#include <sstream>

#include "tests/e2e/program.hpp"
#include "tests/support/catch.hpp"

namespace {

using namespace spillway::e2e;
namespace json = boost::json;

/// Greedy JSON answers to `prompt` with more arguments; checks that it worked.
std::vector<json::value> answers(std::vector<std::string> more, const std::string& prompt = "hello",
                                 const std::string& model = tiny_model().string()) {
  std::vector<std::string> arguments = {"generate", model, "--prompt", prompt, "--json"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  const Ran ran = spillway::e2e::spillway(arguments);
  INFO("stderr: " << ran.err);
  REQUIRE(ran.code == 0);
  std::vector<json::value> values;
  for (const std::string& line : lines_of(ran.out)) values.push_back(json::parse(line));
  return values;
}

json::value greedy(std::vector<std::string> more = {}, const std::string& prompt = "hello") {
  more.insert(more.end(), {"--temperature", "0"});
  return answers(more, prompt).at(0);
}

std::string text_of(const json::value& answer) {
  return std::string(std::string_view(answer.at("text").as_string()));
}

std::string ids(const std::vector<int>& tokens) {
  std::string text;
  for (const int token : tokens) text += (text.empty() ? "[" : ",") + std::to_string(token);
  return text + "]";
}

}  // namespace

TEST_CASE("spillway generate: greedy tokens equal transformers'") {
  for (const char* name :
       {"llama-gqa", "llama-odd", "llama3-rope", "mistral-window", "opt", "opt-post-norm"}) {
    std::ifstream reference(source_root() / "tests/data/models" / name / "reference.txt");
    std::string batch, word;
    std::vector<std::vector<int>> expected;
    for (std::string line; std::getline(reference, line);) {
      std::istringstream words(line);
      words >> word;
      std::vector<int> tokens;
      for (int token; words >> token;) tokens.push_back(token);
      if (word == "prompt") batch += "{\"prompt_token_ids\": " + ids(tokens) + "}\n";
      if (word == "greedy") expected.push_back(tokens);
    }
    REQUIRE(!expected.empty());
    const Ran ran = spillway::e2e::spillway(
        {"generate", tiny_model(name).string(), "--prompts", "-", "--json", "--temperature", "0",
         "--ignore-eos", "--kv-cache-dtype", "fp32", "--max-tokens", std::to_string(expected[0].size())},
        batch);
    INFO(name << ": " << ran.err);
    REQUIRE(ran.code == 0);
    const std::vector<std::string> lines = lines_of(ran.out);
    REQUIRE(lines.size() == expected.size());
    for (std::size_t i = 0; i < lines.size(); ++i) {
      INFO("prompt " << i);
      CHECK(json::value_to<std::vector<int>>(json::parse(lines[i]).at("token_ids")) == expected[i]);
    }
  }
}

TEST_CASE("spillway generate: text on stdout and nothing else anywhere") {
  const Ran ran = spillway::e2e::spillway(
      {"generate", tiny_model().string(), "--prompt", "hello", "--temperature", "0", "--max-tokens", "12"});
  CHECK(ran.code == 0);
  CHECK(ran.err.empty());
  CHECK(ran.out == text_of(greedy({"--max-tokens", "12"})) + "\n");
}

TEST_CASE("spillway generate: a prompt from a file or from stdin is the same prompt") {
  const std::filesystem::path file = write_file("prompt.txt", "hello\n");
  const std::vector<std::string> base = {"generate", tiny_model().string(), "--temperature",
                                         "0",        "--max-tokens",        "12"};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), base.begin(), base.end());
    return more;
  };
  const Ran from_option = spillway::e2e::spillway(with({"--prompt", "hello"}));
  CHECK(!from_option.out.empty());
  CHECK(spillway::e2e::spillway(with({"--prompt-file", file.string()})).out == from_option.out);
  CHECK(spillway::e2e::spillway(base, "hello\n").out == from_option.out);
}

TEST_CASE("spillway generate: an empty prompt is refused in one line") {
  const Ran ran = spillway::e2e::spillway({"generate", tiny_model().string(), "--prompt", ""});
  CHECK(ran.code == 1);
  CHECK(ran.out.empty());
  CHECK(ran.err == "spillway: the prompt is empty: it has no tokens\n");
}

TEST_CASE("spillway generate: a prompt over --max-model-len is refused, one that fits ends at it") {
  const std::string model = tiny_model().string();
  const Ran over =
      spillway::e2e::spillway({"generate", model, "--prompt", std::string(64, 'a'), "--max-model-len", "64"});
  CHECK(over.code == 1);
  CHECK(over.out.empty());
  CHECK(over.err.find("64") != std::string::npos);
  CHECK(lines_of(over.err).size() == 1);
  const json::value fits = greedy({"--max-model-len", "64", "--ignore-eos"}, std::string(60, 'a'));
  CHECK(fits.at("token_ids").as_array().size() == 4);
  CHECK(fits.at("finish_reason") == "length");
}

TEST_CASE("spillway generate: --max-tokens 0 computes the prompt and says nothing") {
  const json::value answer = greedy({"--max-tokens", "0"});
  CHECK(text_of(answer).empty());
  CHECK(answer.at("token_ids").as_array().empty());
  CHECK(answer.at("finish_reason") == "length");
  CHECK(answer.at("usage").at("prompt_tokens") == 5);
  CHECK(answer.at("usage").at("completion_tokens") == 0);
  const Ran text =
      spillway::e2e::spillway({"generate", tiny_model().string(), "--prompt", "hello", "--max-tokens", "0"});
  CHECK(text.code == 0);
  CHECK(text.out.empty());
}

TEST_CASE("spillway generate: a stop string that spans several tokens ends the answer before it") {
  const std::string whole = text_of(greedy({"--max-tokens", "16"}));  // one character a token
  REQUIRE(whole.size() == 16);
  const std::string stop = whole.substr(5, 4);
  const json::value answer = greedy({"--max-tokens", "16", "--stop", "never said", "--stop", stop});
  CHECK(text_of(answer) == whole.substr(0, whole.find(stop)));
  CHECK(answer.at("finish_reason") == "stop");
  // Streamed text must hold back what may still become the stop string.
  const Ran streamed = spillway::e2e::spillway({"generate", tiny_model().string(), "--prompt", "hello",
                                                "--temperature", "0", "--max-tokens", "16", "--stop", stop});
  CHECK(streamed.out == whole.substr(0, whole.find(stop)) + "\n");
}

TEST_CASE("spillway generate: three choices of a seed differ, and come again with the seed") {
  const std::vector<json::value> first = answers({"--n", "3", "--seed", "7", "--max-tokens", "20"});
  REQUIRE(first.size() == 3);
  std::set<std::string> texts;
  for (std::size_t i = 0; i < first.size(); ++i) {
    CHECK(first[i].at("index") == i);
    CHECK(first[i].at("id") == 0);
    texts.insert(text_of(first[i]));
  }
  CHECK(texts.size() == 3);
  CHECK(answers({"--n", "3", "--seed", "7", "--max-tokens", "20"}) == first);
  CHECK(text_of(answers({"--n", "3", "--seed", "8", "--max-tokens", "20"})[0]) != text_of(first[0]));
  // Choice 0 does not depend on how many others there are.
  CHECK(text_of(answers({"--seed", "7", "--max-tokens", "20"})[0]) == text_of(first[0]));
}

TEST_CASE("spillway generate: without a seed two runs differ") {
  CHECK(text_of(answers({"--max-tokens", "24"})[0]) != text_of(answers({"--max-tokens", "24"})[0]));
}

TEST_CASE("spillway generate: choices as text have a header each") {
  const Ran ran = spillway::e2e::spillway({"generate", tiny_model().string(), "--prompt", "hello",
                                           "--temperature", "0", "--max-tokens", "4", "--n", "2"});
  CHECK(ran.code == 0);
  const std::string text = text_of(greedy({"--max-tokens", "4"}));
  CHECK(ran.out == "--- 1 of 2 ---\n" + text + "\n--- 2 of 2 ---\n" + text + "\n");
}

TEST_CASE("spillway generate: log probabilities are there when asked for, best first") {
  CHECK(greedy({"--max-tokens", "6"}).at("logprobs").is_null());
  const json::value answer = greedy({"--max-tokens", "6", "--logprobs", "5"});
  const json::array& tokens = answer.at("logprobs").as_array();
  REQUIRE(tokens.size() == 6);
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const json::array& top = tokens[i].at("top").as_array();
    REQUIRE(top.size() == 5);
    CHECK(tokens[i].at("token_id") == answer.at("token_ids").at(i));
    CHECK(top[0].at("token_id") == tokens[i].at("token_id"));  // greedy
    CHECK(top[0].at("logprob") == tokens[i].at("logprob"));
    double sum = 0, last = 0;
    for (const json::value& each : top) {
      const double logprob = each.at("logprob").to_number<double>();
      CHECK(logprob <= last);
      last = logprob;
      sum += std::exp(logprob);
    }
    CHECK(sum < 1.0001);
  }
  CHECK(greedy({"--max-tokens", "2", "--logprobs", "0"}).at("logprobs").at(0).at("top").as_array().empty());
}

TEST_CASE("spillway generate: how the engine is set up does not change greedy tokens") {
  const std::string prompt(90, 'x');
  const json::value plain = greedy({"--max-tokens", "40", "--ignore-eos"}, prompt).at("token_ids");
  for (const std::vector<std::string>& setup : std::vector<std::vector<std::string>>{
           {"--no-enable-prefix-caching"},
           {"--async-submit", "1"},
           {"--async-submit", "4"},
           {"--threads", "1"},
           {"--threads", "3"},
           {"--block-size", "8"},
           {"--block-size", "32"},
           {"--max-num-seqs", "4", "--max-num-batched-tokens", "7"},  // the prompt in chunks
           {"--kv-cache-dtype", "fp32"}}) {
    std::vector<std::string> more = {"--max-tokens", "40", "--ignore-eos"};
    more.insert(more.end(), setup.begin(), setup.end());
    INFO(setup[0] << " " << setup.back());
    CHECK(greedy(more, prompt).at("token_ids") == plain);
  }
}

TEST_CASE("spillway generate: every KV type gives nearly the same first probabilities") {
  const std::string model = tiny_model("mistral-window").string();  // q8_0 wants heads of a multiple of 32
  const auto first = [&](const char* dtype) {
    const json::value answer =
        answers({"--max-tokens", "2", "--temperature", "0", "--logprobs", "1", "--kv-cache-dtype", dtype},
                "hello world", model)
            .at(0);
    return answer.at("logprobs").at(0).at("logprob").to_number<double>();
  };
  const double exact = first("fp32");
  CHECK(first("auto") == exact);  // the weights are fp32
  for (const char* dtype : {"fp16", "bf16", "q8_0"}) {
    INFO(dtype);
    CHECK(std::abs(first(dtype) - exact) < 0.1);
  }
}

TEST_CASE("spillway generate: a KV type that the model's heads do not fit is refused by name") {
  const Ran ran = spillway::e2e::spillway(
      {"generate", tiny_model().string(), "--prompt", "x", "--kv-cache-dtype", "q8_0"});
  CHECK(ran.code == 2);
  CHECK(ran.err.find("q8_0") != std::string::npos);
  CHECK(lines_of(ran.err).size() == 1);
}

TEST_CASE("spillway generate: --stats goes to stderr") {
  const Ran ran =
      spillway::e2e::spillway({"generate", tiny_model().string(), "--prompt", "hello", "--max-tokens", "4",
                               "--temperature", "0", "--ignore-eos", "--stats"});
  CHECK(ran.code == 0);
  CHECK(ran.out == text_of(greedy({"--max-tokens", "4", "--ignore-eos"})) + "\n");
  for (const char* part : {"5 tokens", "first token", "4 tokens", "tokens/s", "KV cache", "steps"}) {
    INFO(part << " in " << ran.err);
    CHECK(ran.err.find(part) != std::string::npos);
  }
}

TEST_CASE("spillway generate: a sparsified answer says what was evicted, and is exact while nothing was") {
  const std::vector<std::string> more = {"--max-tokens", "50", "--ignore-eos", "--seed", "7"};
  const auto sparse = [&](const std::string& method, const std::string& budget) {
    std::vector<std::string> all = more;
    all.insert(all.end(), {"--sparse-kv-cache-method", method, "--sparse-kv-cache-budget", budget});
    return greedy(all);
  };
  const json::value exact = greedy(more);
  CHECK(exact.at("usage").as_object().if_contains("sparse_kv_cache") == nullptr);
  for (const std::string method : {"random", "h2o", "streaming", "snapkv", "tova"}) {
    INFO(method);
    const json::value wide = sparse(method, "300");
    CHECK(wide.at("token_ids") == exact.at("token_ids"));
    CHECK(wide.at("usage").at("sparse_kv_cache").at("exact").as_bool());
    const json::value narrow = sparse(method, "16");
    CHECK(narrow.at("token_ids").as_array().size() == 50);
    CHECK_FALSE(narrow.at("usage").at("sparse_kv_cache").at("exact").as_bool());
    CHECK(narrow.at("usage").at("sparse_kv_cache").at("evicted_tokens").as_int64() >= 50 + 5 - 17);
    CHECK(sparse(method, "16").at("token_ids") == narrow.at("token_ids"));
  }
}

TEST_CASE("spillway generate: --stats counts evicted tokens and reused slots") {
  const Ran ran = spillway::e2e::spillway({"generate", tiny_model().string(), "--prompt", "hello", "--max-tokens", "40",
                                           "--ignore-eos", "--stats", "--sparse-kv-cache-method", "streaming",
                                           "--sparse-kv-cache-budget", "16"});
  CHECK(ran.code == 0);
  CHECK(ran.err.find("sparse KV") != std::string::npos);
  CHECK(ran.err.find("; not exact") != std::string::npos);
}

TEST_CASE("spillway generate: the strategies answer alike on the real model") {
  if (real_model().empty()) {
    WARN("skipped: the model has not been fetched (./dev model)");
    return;
  }
  const auto ask = [](const std::string& strategy) {
    return answers({"--temperature", "0", "--max-tokens", "60", "--ignore-eos", "--sparse-kv-cache-method", "h2o",
                    "--sparse-kv-cache-budget", "40", "--sparse-kv-cache-internal", strategy},
                   "Once upon a time, in a house by the river, there lived", real_model().string())
        .at(0);
  };
  const json::value spvllm = ask("spvllm");
  CHECK(spvllm.at("usage").at("sparse_kv_cache").at("evicted_tokens").as_int64() >= 60 + 12 - 41);
  for (const std::string strategy : {"no-op", "free-block", "sparse-copy"}) {
    INFO(strategy);
    CHECK(ask(strategy).at("token_ids") == spvllm.at("token_ids"));
  }
}

TEST_CASE("spillway generate: --trace leaves a trace that is JSON") {
  const std::filesystem::path trace = scratch() / "trace.json";
  static_cast<void>(greedy({"--max-tokens", "4", "--trace", trace.string()}));
  std::ifstream file(trace);
  const std::string text((std::istreambuf_iterator<char>(file)), {});
  boost::system::error_code code;
  const json::value value = json::parse(text, code);
  REQUIRE(!code);
  const json::array& events = value.is_array() ? value.as_array() : value.at("traceEvents").as_array();
  CHECK(events.size() > 10);
}

TEST_CASE("spillway generate: --chat renders the prompt in the model's chat format") {
  const json::value answer = greedy({"--chat", "--system", "be brief", "--max-tokens", "1"}, "hi");
  std::string prompt;
  for (const json::value& token : answer.at("prompt_token_ids").as_array())
    prompt += static_cast<char>(token.as_int64());
  CHECK(prompt == "<system> be brief\n<user> hi\n<assistant> ");
}

TEST_CASE("spillway generate: the real model knows the capital of France") {
  if (real_model().empty()) {
    WARN("skipped: the model has not been fetched (./dev model)");
    return;
  }
  const Ran ran =
      spillway::e2e::spillway({"generate", real_model().string(), "--prompt", "The capital of France is",
                               "--temperature", "0", "--max-tokens", "4"});
  CHECK(ran.code == 0);
  CHECK(ran.out.find("Paris") != std::string::npos);
  // Through the chat template of the file: turns are opened and closed by special tokens 1 and 2.
  const Ran chat =
      spillway::e2e::spillway({"generate", real_model().string(), "--chat", "--json", "--prompt",
                               "What is the capital of France?", "--temperature", "0", "--max-tokens", "1"});
  REQUIRE(chat.code == 0);
  CHECK(json::value_to<std::vector<int>>(json::parse(chat.out).at("prompt_token_ids")) ==
        std::vector<int>{1,   9690, 198, 2683, 359,   253,  5356, 5646, 11173, 3365, 3511, 308,  34519,
                         28,  7018, 411, 407,  19712, 8182, 2,    198,  1,     4093, 198,  1780, 314,
                         260, 3575, 282, 4649, 47,    2,    198,  1,    520,   9531, 198});
}
