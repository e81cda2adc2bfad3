// SPDX-License-Identifier: Apache-2.0
#pragma once

// Reads the reference.txt files that tests/oracle/make_*_models.py and make_smollm2_reference.py write.

#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "model/spec.hpp"
#include "tests/support/catch.hpp"

namespace spillway::gpu::host {

struct ReferenceCase {
  std::vector<model::TokenId> prompt, greedy;
  float margin = 0;                                  // the smallest on the way
  std::vector<float> margins;                        // per token, where the file has them
  std::map<std::size_t, std::vector<float>> logits;  // by index of the greedy token
  std::map<std::size_t, float> norms;
  std::map<std::size_t, std::vector<std::pair<model::TokenId, float>>> top;
};

inline std::vector<ReferenceCase> read_reference(const std::string& path) {
  std::ifstream file(path);
  INFO(path);
  REQUIRE(file.good());
  std::vector<ReferenceCase> cases;
  for (std::string line; std::getline(file, line);) {
    std::istringstream in(line);
    std::string key;
    in >> key;
    if (key == "case") {
      cases.emplace_back();
      continue;
    }
    REQUIRE_FALSE(cases.empty());
    ReferenceCase& c = cases.back();
    const auto ids = [&in](std::vector<model::TokenId>& to) {
      for (model::TokenId id; in >> id;) to.push_back(id);
    };
    const auto floats = [&in](std::vector<float>& to) {
      for (float x; in >> x;) to.push_back(x);
    };
    std::size_t index = 0;
    if (key == "prompt") ids(c.prompt);
    if (key == "greedy") ids(c.greedy);
    if (key == "margin") in >> c.margin;
    if (key == "margins") floats(c.margins);
    if (key == "logits") in >> index, floats(c.logits[index]);
    if (key == "norm") in >> index >> c.norms[index];
    if (key == "top") {
      in >> index;
      model::TokenId id = 0;
      char colon = 0;
      for (float x; in >> id >> colon >> x;) c.top[index].emplace_back(id, x);
    }
  }
  return cases;
}

}  // namespace spillway::gpu::host
