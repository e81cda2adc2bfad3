// SPDX-License-Identifier: Apache-2.0
#include "bench/sparse/option_reader.hpp"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <iostream>

namespace spillway::bench {
namespace {

std::vector<std::string> words(std::string_view text) {
  std::vector<std::string> list;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find(','), text.size());
    list.emplace_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return list;
}

}  // namespace

template <class T>
T OptionReader::number(std::string_view name, std::string_view text) const {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size())
    refuse(std::string(name) + " wants a number, not '" + std::string(text) + "'");
  return value;
}

void OptionReader::add(std::string name, std::string& variable) {
  options_[std::move(name)] = [&variable](std::string_view text) { variable = text; };
}
void OptionReader::add(std::string name, std::uint32_t& variable) {
  options_[name] = [this, name, &variable](std::string_view text) {
    variable = number<std::uint32_t>(name, text);
  };
}
void OptionReader::add(std::string name, std::uint64_t& variable) {
  options_[name] = [this, name, &variable](std::string_view text) {
    variable = number<std::uint64_t>(name, text);
  };
}
void OptionReader::add(std::string name, double& variable) {
  options_[name] = [this, name, &variable](std::string_view text) { variable = number<double>(name, text); };
}
void OptionReader::add(std::string name, std::vector<std::string>& variable) {
  options_[std::move(name)] = [&variable](std::string_view text) { variable = words(text); };
}
void OptionReader::add(std::string name, std::vector<std::uint32_t>& variable) {
  options_[name] = [this, name, &variable](std::string_view text) {
    variable.clear();
    for (const std::string& word : words(text)) variable.push_back(number<std::uint32_t>(name, word));
  };
}

void OptionReader::read(int argc, char** argv) const {
  for (int i = 1; i < argc; i += 2) {
    const std::string_view name = argv[i];
    const auto option = options_.find(name);
    if (option == options_.end()) refuse("unknown option '" + std::string(name) + "'");
    if (i + 1 == argc) refuse(std::string(name) + " wants a value");
    option->second(argv[i + 1]);
  }
}

void OptionReader::refuse(const std::string& message) const {
  std::cerr << program_ << ": " << message << "\n" << usage_;
  std::exit(2);
}

void SparseGrid::add_to(OptionReader& reader) {
  reader.add("--methods", methods);
  reader.add("--granularities", granularities);
  reader.add("--strategies", strategies);
}

std::vector<model::SparseKvParams> SparseGrid::all(const OptionReader& reader) const {
  std::vector<model::SparseKvParams> combinations;
  for (const std::string& method : methods) {
    for (const std::string& granularity : granularities) {
      for (const std::string& strategy : strategies) {
        const model::SparseKvParams params{
            .method = reader.known(model::parse_sparse_method(method)),
            .strategy = reader.known(model::parse_sparse_strategy(strategy)),
            .granularity = reader.known(model::parse_sparse_granularity(granularity))};
        if (params.method == model::SparseMethod::kStreaming && granularity != granularities.front())
          continue;
        combinations.push_back(params);
      }
    }
  }
  return combinations;
}

}  // namespace spillway::bench
