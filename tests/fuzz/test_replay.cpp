// SPDX-License-Identifier: Apache-2.0
// The committed corpus of every fuzz target: what once crashed, or found a new path, goes through again.

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "tests/fuzz/targets.hpp"
#include "tests/support/catch.hpp"

namespace fs = std::filesystem;
using spillway::fuzz::Input;

namespace {

void replay(const std::string& name, void (*target)(Input)) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(fs::path(SPW_SOURCE_DIR) / "tests/fuzz/corpus" / name)) {
    files.push_back(entry.path());
  }
  std::ranges::sort(files);
  REQUIRE(files.size() >= 5);
  for (const fs::path& file : files) {
    CAPTURE(file);
    std::ifstream stream(file, std::ios::binary);
    // Exactly as long as the file, so that a sanitizer sees a read past its end.
    const std::vector<char> bytes{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
    REQUIRE(stream);
    target(std::as_bytes(std::span(bytes.data(), bytes.size())));
  }
  SUCCEED(files.size() << " files");
}

}  // namespace

TEST_CASE("fuzz corpus: no GGUF file brings the reader down") { replay("gguf", spillway::fuzz::gguf); }
TEST_CASE("fuzz corpus: no safetensors file brings the reader down") {
  replay("safetensors", spillway::fuzz::safetensors);
}
TEST_CASE("fuzz corpus: no config.json brings the reader down") { replay("config", spillway::fuzz::config); }
TEST_CASE("fuzz corpus: no tokenizer.json brings the reader down") {
  replay("tokenizer", spillway::fuzz::tokenizer);
}
TEST_CASE("fuzz corpus: no chat template brings the interpreter down") {
  replay("chat_template", spillway::fuzz::chat_template);
}
TEST_CASE("fuzz corpus: no client's JSON brings the server down") { replay("api_request", spillway::fuzz::api_request); }
TEST_CASE("fuzz corpus: no WebSocket client brings the session down") {
  replay("websocket", spillway::fuzz::websocket);
}
