// SPDX-License-Identifier: Apache-2.0
#pragma once

// The reference data of tests/oracle/make_tokenizer_reference.py, read back.

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "model/spec.hpp"

namespace spillway::model::test {

inline std::filesystem::path tokenizer_data(std::string_view file) {
  return std::filesystem::path(SPW_SOURCE_DIR) / "tests/data/tokenizer" / file;
}

inline std::filesystem::path smollm2_path() {
  return std::filesystem::path(SPW_SOURCE_DIR) / "models/SmolLM2-135M-Instruct.Q4_1.gguf";
}

inline std::vector<std::string> read_lines(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

/// "\xHH" is a byte, everything else itself.
inline std::string unescape(std::string_view line) {
  std::string out;
  for (std::size_t i = 0; i < line.size(); ++i) {
    if (line[i] == '\\' && i + 3 < line.size()) {
      out.push_back(static_cast<char>(std::stoi(std::string(line.substr(i + 2, 2)), nullptr, 16)));
      i += 3;
    } else {
      out.push_back(line[i]);
    }
  }
  return out;
}

inline std::vector<std::string> reference_texts() {
  std::vector<std::string> texts;
  for (const std::string& line : read_lines(tokenizer_data("texts.txt"))) texts.push_back(unescape(line));
  return texts;
}

struct ReferenceIds {
  bool add_special_tokens = false, parse_special = false;
  std::vector<TokenId> ids;
};

/// A line "AP id id ..." of an .ids file.
inline ReferenceIds parse_ids(const std::string& line) {
  ReferenceIds out;
  out.add_special_tokens = line.at(0) == '1';
  out.parse_special = line.at(1) == '1';
  std::istringstream in(line.substr(2));
  for (TokenId id; in >> id;) out.ids.push_back(id);
  return out;
}

}  // namespace spillway::model::test
