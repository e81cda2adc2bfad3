// SPDX-License-Identifier: Apache-2.0
#pragma once

// The --dataset-name family of options, and the requests that they make. Shared by `bench serve` and
// `bench throughput`.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "net/load/datasets.hpp"
#include "net/load/workload.hpp"

namespace CLI {
class App;
}

namespace spillway::cli {

struct DatasetOptions {
  std::string name = "random";  // random, lengths, sharegpt, custom, timed_trace
  std::filesystem::path path;
  std::size_t num_prompts = 1000;
  std::optional<std::uint32_t> input_len, output_len;  // --input-len, --output-len: of whatever dataset
  std::uint32_t random_input_len = 1024, random_output_len = 128, random_prefix_len = 0;
  double random_range_ratio = 0;
  std::int32_t random_vocab_size = 30000;
  std::string lengths = "sharegpt";
  std::uint32_t input_len_max = 0, output_len_max = 0;  // longer ones are cut; 0: no limit
  std::optional<std::uint32_t> sharegpt_output_len, custom_output_len;
  bool shuffle = true;
  std::optional<bool> self_timed;
  double trace_speed = 1;
  std::uint32_t trace_block_size = 512;
  std::uint64_t seed = 0;

  /// Answers have their length from the dataset, so end tokens are to be ignored.
  [[nodiscard]] bool fixes_lengths() const {
    return name == "random" || name == "lengths" || name == "timed_trace";
  }
  [[nodiscard]] bool is_self_timed() const { return name == "timed_trace" && self_timed.value_or(true); }
};

void add_dataset_options(CLI::App& command, DatasetOptions& options);

/// The requests; their times are 0, or the trace's. `source` makes the prompts of datasets that have lengths
/// only, `count` may be empty where no tokenizer is at hand. Errors: kInvalidArgument (an option), kNotFound,
/// kBadFile, kIo.
[[nodiscard]] Result<std::vector<net::load::LoadRequest>> make_requests(const DatasetOptions& options,
                                                                        const net::load::PromptSource& source,
                                                                        const net::load::CountTokens& count);

}  // namespace spillway::cli
