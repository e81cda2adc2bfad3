// SPDX-License-Identifier: Apache-2.0
#pragma once

// Command line of the sparsification benches: pairs of `--name value`, each written to a variable of the
// type that it is. Whatever is wrong ends the program with the usage and status 2.

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "model/sparse_kv.hpp"

namespace spillway::bench {

class OptionReader {
 public:
  OptionReader(std::string program, std::string usage)
      : program_(std::move(program)), usage_(std::move(usage)) {}
  OptionReader(const OptionReader&) = delete;
  OptionReader& operator=(const OptionReader&) = delete;

  /// `variable` outlives read(). Lists are words between commas, and replace what was there.
  void add(std::string name, std::string& variable);
  void add(std::string name, std::uint32_t& variable);
  void add(std::string name, std::uint64_t& variable);
  void add(std::string name, double& variable);
  void add(std::string name, std::vector<std::string>& variable);
  void add(std::string name, std::vector<std::uint32_t>& variable);

  void read(int argc, char** argv) const;

  [[noreturn]] void refuse(const std::string& message) const;
  template <class T>
  [[nodiscard]] T known(Result<T> result) const {
    if (!result) refuse(result.error().message);
    return *std::move(result);
  }

 private:
  template <class T>
  [[nodiscard]] T number(std::string_view name, std::string_view text) const;

  using Set = std::function<void(std::string_view value)>;
  std::string program_, usage_;
  std::map<std::string, Set, std::less<>> options_;
};

/// What of KV sparsification a bench goes through.
struct SparseGrid {
  std::vector<std::string> methods, granularities, strategies = {"spvllm"};

  /// Registers --methods, --granularities and --strategies.
  void add_to(OptionReader& reader);
  /// Every combination, without a budget. Streaming with the first granularity alone: age is no head's own.
  [[nodiscard]] std::vector<model::SparseKvParams> all(const OptionReader& reader) const;
};

}  // namespace spillway::bench
