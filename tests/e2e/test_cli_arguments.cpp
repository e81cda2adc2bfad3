// SPDX-License-Identifier: Apache-2.0
// What the command line takes, and what it says of what it does not take.

#include <fstream>

#include "tests/e2e/program.hpp"
#include "tests/support/catch.hpp"

namespace {

using namespace spillway::e2e;

/// Nothing on stdout, one line on stderr, exit code 2.
void check_wrong_input(const Ran& ran, std::string_view part) {
  INFO("stderr: " << ran.err);
  CHECK(ran.code == 2);
  CHECK(ran.out.empty());
  CHECK(lines_of(ran.err).size() == 1);
  CHECK(ran.err.starts_with("spillway: "));
  CHECK(ran.err.find(part) != std::string::npos);
}

}  // namespace

TEST_CASE("spillway: every command explains itself") {
  for (const std::vector<std::string>& command :
       {std::vector<std::string>{}, {"generate"}, {"chat"}, {"inspect"}, {"tokenize"}}) {
    std::vector<std::string> arguments = command;
    arguments.push_back("--help");
    const Ran ran = spillway::e2e::spillway(arguments);
    CHECK(ran.code == 0);
    CHECK(ran.err.empty());
    CHECK(ran.out.find("Usage: spillway") != std::string::npos);
    CHECK(ran.out.find("Exit codes") != std::string::npos);
  }
}

TEST_CASE("spillway: --version says the version") {
  const Ran ran = spillway::e2e::spillway({"--version"});
  CHECK(ran.code == 0);
  CHECK(ran.out.starts_with("spillway "));
}

TEST_CASE("spillway: a wrong command line is one line on stderr and exit code 2") {
  const std::string model = tiny_model().string();
  struct Case {
    std::vector<std::string> arguments;
    const char* part;
  };
  const std::vector<Case> cases = {
      {{}, "which command"},
      {{"serf"}, "unknown command 'serf'"},
      {{"bench"}, "which bench"},
      {{"bench", "serv"}, "did you mean serve?"},
      {{"bench", "serve", "--request-rte", "5"}, "did you mean --request-rate?"},
      {{"bench", "serve", "--goodput", "speed:1", "--model", "m"}, "--goodput"},
      {{"bench", "serve", "--dataset-name", "sharegpt", "--model", "m"}, "--dataset-path"},
      {{"bench", "latency"}, "MODEL is required"},
      {{"generat"}, "did you mean generate?"},
      {{"generate"}, "MODEL is required"},
      {{"generate", model, "--promt", "x"}, "did you mean --prompt?"},
      {{"generate", model, "--nonsense"}, "unknown option '--nonsense'"},
      {{"generate", model, "x", "--prompt", "y"}, "unexpected argument 'x'"},
      {{"generate", model, "--prompt"}, "--prompt"},
      {{"generate", model, "--prompt", "x", "--prompt-file", "y"}, "excludes"},
      {{"generate", model, "--prompt", "x", "--max-tokens", "many"},
       "--max-tokens: 'many' is not a whole number"},
      {{"generate", model, "--prompt", "x", "--max-tokens", "-1"}, "--max-tokens"},
      {{"generate", model, "--prompt", "x", "--temperature", "-1"}, "--temperature is -1"},
      {{"generate", model, "--prompt", "x", "--temperature", "nan"},
       "--temperature: 'nan' is not a finite number"},
      {{"generate", model, "--prompt", "x", "--top-p", "0"}, "--top-p is 0"},
      {{"generate", model, "--prompt", "x", "--min-p", "2"}, "--min-p is 2"},
      {{"generate", model, "--prompt", "x", "--presence-penalty", "3"}, "--presence-penalty is 3"},
      {{"generate", model, "--prompt", "x", "--repetition-penalty", "0"}, "--repetition-penalty is 0"},
      {{"generate", model, "--prompt", "x", "--stop", ""}, "--stop[0] is empty"},
      {{"generate", model, "--prompt", "x", "--n", "0"}, "--n"},
      {{"generate", model, "--prompt", "x", "--logprobs", "2"}, "--logprobs needs --json"},
      {{"generate", model, "--prompt", "x", "--system", "y"}, "--chat"},
      {{"generate", model, "--prompt", "x", "--kv-cache-dtype", "fp8"}, "auto|fp32|fp16|bf16|q8_0"},
      {{"generate", model, "--prompt", "x", "--kv-cache-memory-bytes", "12Q"}, "256MiB"},
      {{"generate", model, "--prompt", "x", "--kv-cache-memory-bytes", "1K"}, "kv_cache_memory_bytes is 1024"},
      {{"generate", model, "--prompt", "x", "--max-model-len", "513"}, "512"},
      {{"generate", model, "--prompt", "x", "--cpu-target", "sparc"}, "avx2"},
      {{"generate", model, "--prompt", "x", "--log-level", "loud"}, "warn"},
      {{"generate", model, "--prompt-file", "/nonexistent"}, "/nonexistent"},
      {{"generate", model, "--prompts", "/nonexistent"}, "/nonexistent"},
      {{"generate", model, "--prompts", "/tmp"}, "/tmp"},
      {{"chat", model, "--n", "2"}, "unknown option '--n'"},
      {{"inspect", "/nonexistent"}, "/nonexistent"},
      {{"tokenize", "/nonexistent"}, "/nonexistent"},
  };
  for (const Case& each : cases) {
    std::string line;
    for (const std::string& argument : each.arguments) line += " " + argument;
    INFO("spillway" << line);
    check_wrong_input(spillway::e2e::spillway(each.arguments), each.part);
  }
}

TEST_CASE("spillway: without a GPU --device cuda is an error, and --device auto computes on the host and says so") {
  // The suite's environment names a CUDA module that is not there.
  const std::string model = tiny_model().string();
  const std::vector<std::string> generate{"generate", model, "--prompt", "abc", "--max-tokens", "3", "--temperature", "0"};
  const auto with = [&](std::vector<std::string> more) {
    std::vector<std::string> command = generate;
    command.insert(command.end(), more.begin(), more.end());
    return spillway::e2e::spillway(command);
  };
  check_wrong_input(with({"--device", "cuda"}), "CUDA");
  check_wrong_input(with({"--device", "tpu"}), "auto|cuda|host");
  check_wrong_input(with({"--gpu-memory-utilization", "1.5"}), "above 0 and at most 1");
  check_wrong_input(with({"--device", "host", "--load-format", "dummy"}), "--load-format dummy");
  check_wrong_input(with({"--tensor-parallel-size", "2"}), "--tensor-parallel-size 2 needs as many GPUs");
  check_wrong_input(with({"--device", "host", "--tensor-parallel-size", "2"}), "--tensor-parallel-size 2 needs as many GPUs");
  const Ran silent = with({}), asked = with({"--device", "auto"}), host = with({"--device", "host"});
  CHECK(silent.code == 0);
  CHECK(silent.err.empty());
  CHECK(host.err.empty());
  CHECK(asked.code == 0);
  CHECK(lines_of(asked.err).size() == 1);
  CHECK(asked.err.find("computing on the host: ") != std::string::npos);
  CHECK(asked.out == silent.out);
  CHECK(host.out == silent.out);
}

TEST_CASE("spillway: a directory without weights is named, by every command") {
  const std::filesystem::path directory = scratch() / "no-weights";
  std::filesystem::create_directory(directory);
  check_wrong_input(spillway::e2e::spillway({"generate", directory.string(), "--prompt", "x"}),
                    directory.string());
  check_wrong_input(spillway::e2e::spillway({"chat", directory.string()}), directory.string());
  check_wrong_input(spillway::e2e::spillway({"inspect", directory.string()}), directory.string());
  check_wrong_input(spillway::e2e::spillway({"tokenize", directory.string()}), directory.string());
  // A config alone is no model either.
  std::filesystem::copy(tiny_model() / "config.json", directory);
  check_wrong_input(spillway::e2e::spillway({"generate", directory.string(), "--prompt", "x"}),
                    directory.string());
}

TEST_CASE("spillway: truncated weights are wrong input at every length") {
  const std::filesystem::path whole = tiny_model() / "model.safetensors";
  std::ifstream file(whole, std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(file)), {});
  const std::filesystem::path directory = scratch() / "truncated";
  std::filesystem::copy(tiny_model(), directory);
  for (const std::size_t length :
       {std::size_t{0}, std::size_t{7}, std::size_t{100}, bytes.size() / 2, bytes.size() - 1}) {
    std::ofstream(directory / "model.safetensors", std::ios::binary)
        .write(bytes.data(), static_cast<std::streamsize>(length));
    INFO(length << " of " << bytes.size() << " bytes");
    check_wrong_input(spillway::e2e::spillway({"generate", directory.string(), "--prompt", "x"}),
                      "model.safetensors");
  }
}

TEST_CASE("spillway: a truncated GGUF file is wrong input at every length") {
  if (real_model().empty()) {
    WARN("skipped: the model has not been fetched (./dev model)");
    return;
  }
  std::ifstream file(real_model(), std::ios::binary);
  std::string bytes(4 << 20, '\0');
  file.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  for (const std::size_t length :
       {std::size_t{0}, std::size_t{4}, std::size_t{24}, std::size_t{1000}, bytes.size()}) {
    const std::filesystem::path path =
        write_file("truncated.gguf", std::string_view(bytes).substr(0, length));
    INFO(length << " bytes");
    check_wrong_input(spillway::e2e::spillway({"generate", path.string(), "--prompt", "x"}),
                      "truncated.gguf");
  }
}

TEST_CASE("spillway inspect: says what a model is made of, as text and as JSON") {
  const Ran text = spillway::e2e::spillway({"inspect", tiny_model().string()});
  CHECK(text.code == 0);
  CHECK(text.out.find("llama") != std::string::npos);
  CHECK(text.out.find("lm_head.weight") != std::string::npos);
  const Ran json = spillway::e2e::spillway({"inspect", tiny_model().string(), "--json"});
  CHECK(json.code == 0);
  CHECK(lines_of(json.out).size() == 1);
  CHECK(json.out.starts_with("{"));
}

TEST_CASE("spillway tokenize: lines of JSON strings become token ids") {
  const Ran ran =
      spillway::e2e::spillway({"tokenize", tiny_model().string(), "--json"}, "\"Hi!\"\n\"\"\n\"a\\nb\"");
  CHECK(ran.code == 0);
  CHECK(ran.out == "{\"token_ids\":[72,105,33]}\n{\"token_ids\":[]}\n{\"token_ids\":[97,10,98]}\n");
  CHECK(ran.err.empty());
  CHECK(spillway::e2e::spillway({"tokenize", tiny_model().string()}, "Hi!\n").out == "72 105 33\n");
}

TEST_CASE("spillway tokenize: a malformed line is named") {
  for (const std::string_view line : {"oops", "12", "\"open", "[\"a\"]", ""}) {
    const Ran ran = spillway::e2e::spillway({"tokenize", tiny_model().string(), "--json"},
                                            "\"ok\"\n" + std::string(line) + "\n\"never\"\n");
    INFO("line " << line << ", stderr " << ran.err);
    CHECK(ran.code == 2);
    CHECK(ran.err.starts_with("spillway: stdin:2"));
    CHECK(lines_of(ran.err).size() == 1);
    CHECK(lines_of(ran.out).size() == 1);
  }
}
