// SPDX-License-Identifier: Apache-2.0
#include "cli/bench_dataset.hpp"

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <algorithm>

#include "cli/input.hpp"
#include "cli/option_values.hpp"
#include "cli/options.hpp"
#include "cli/values.hpp"
#include "net/load/lengths.hpp"
#include "net/load/trace.hpp"

namespace spillway::cli {

namespace load = net::load;

namespace {

/// The tables' requests, with lengths cut to what the options allow.
void cut_lengths(const DatasetOptions& options, std::vector<load::Lengths>& lengths) {
  for (load::Lengths& each : lengths) {
    if (options.input_len) each.input = *options.input_len;
    if (options.output_len) each.output = *options.output_len;
    if (options.input_len_max != 0) each.input = std::min(each.input, options.input_len_max);
    if (options.output_len_max != 0) each.output = std::min(each.output, options.output_len_max);
  }
}

Result<std::string> dataset_file(const DatasetOptions& options) {
  if (options.path.empty())
    return Error{Errc::kInvalidArgument, "--dataset-name " + options.name + " needs --dataset-path FILE"};
  Result<std::string> text = read_input(options.path);
  if (!text) return Error{text.error().code, "--dataset-path: " + text.error().message};
  return text;
}

Result<std::vector<load::LoadRequest>> from_file(const DatasetOptions& options,
                                                 const load::PromptSource& source,
                                                 const load::CountTokens& count, runtime::Random& random) {
  const Result<std::string> text = dataset_file(options);
  if (!text) return text.error();
  const std::string name = options.path.string();
  load::FileOptions file{options.num_prompts, options.output_len, options.shuffle};
  if (options.name == "custom") {
    if (options.custom_output_len) file.output_tokens = options.custom_output_len;
    return load::custom_requests(*text, name, file, count, random);
  }
  if (options.name == "sharegpt") {
    if (options.sharegpt_output_len) file.output_tokens = options.sharegpt_output_len;
    if (!count)
      return Error{Errc::kInvalidArgument, "--dataset-name sharegpt counts tokens: give --tokenizer MODEL"};
    return load::sharegpt_requests(*text, name, file, count, random);
  }
  Result<std::vector<load::TraceEntry>> trace = load::parse_trace(*text, name);
  if (!trace) return trace.error();
  if (trace->size() > options.num_prompts) trace->resize(options.num_prompts);
  for (load::TraceEntry& entry : *trace) {
    std::vector<load::Lengths> lengths{entry.lengths};
    cut_lengths(options, lengths);
    entry.lengths = lengths.front();
  }
  return load::trace_requests(*trace, options.trace_speed, options.trace_block_size, options.seed, source);
}

}  // namespace

void add_dataset_options(CLI::App& command, DatasetOptions& options) {
  const OptionGroup group(command, "Dataset");
  add_word(command, "--dataset-name", "what to send [random]", options.name,
           {"random", "lengths", "sharegpt", "custom", "timed_trace"});
  add_value(command, "--dataset-path", "FILE",
            "sharegpt: JSON; custom: JSON lines; timed_trace: Mooncake JSON lines or Azure CSV",
            [&options](const std::string& text) -> Result<void> {
              options.path = text;
              return {};
            });
  add_number(command, "--num-prompts", "requests to send; a trace may have fewer [1000]", options.num_prompts,
             1, 10'000'000);
  add_number(command, "--input-len",
             "prompt length of random, lengths and timed_trace, tokens [each its own]", options.input_len, 1,
             10'000'000);
  add_number(command, "--output-len", "answer length, tokens [each dataset's own]", options.output_len, 1,
             1'000'000);
  add_number(command, "--random-input-len", "random: mean prompt length [1024]", options.random_input_len, 1,
             10'000'000);
  add_number(command, "--random-output-len", "random: mean answer length [128]", options.random_output_len, 1,
             1'000'000);
  add_number(command, "--random-prefix-len", "random, lengths: tokens that all prompts begin with, added [0]",
             options.random_prefix_len, 0, 10'000'000);
  add_decimal(command, "--random-range-ratio",
              "random: lengths lie within this share of their mean, below 1 [0]", options.random_range_ratio,
              0, 0.999999);
  add_number(command, "--random-vocab-size", "token ids of prompts are below this [30000]",
             options.random_vocab_size, 1001, 10'000'000);
  add_word(command, "--lengths", "lengths: which table [sharegpt]", options.lengths,
           {"sharegpt", "sharegpt-8k", "azure-conv", "azure-code"});
  add_number(command, "--input-len-max", "random, lengths, timed_trace: cut longer prompts [no limit]",
             options.input_len_max, 1, 10'000'000);
  add_number(command, "--output-len-max", "the same for answers [no limit]", options.output_len_max, 1,
             1'000'000);
  add_number(command, "--sharegpt-output-len", "sharegpt: answer length [that of the file's answer]",
             options.sharegpt_output_len, 1, 1'000'000);
  add_number(command, "--custom-output-len", "custom: answer length [the line's output_tokens, else 256]",
             options.custom_output_len, 1, 1'000'000);
  command.add_flag_function(
      "--disable-shuffle", [&options](std::int64_t) { options.shuffle = false; },
      "sharegpt, custom: take entries in the order of the file");
  command.add_flag_function(
      "--self-timed,!--no-self-timed", [&options](std::int64_t count) { options.self_timed = count > 0; },
      "timed_trace: send at the trace's own times, or at --request-rate [on]");
  add_decimal(command, "--trace-speed", "timed_trace: run the trace so many times as fast [1]",
              options.trace_speed, 1e-6, 1e6);
  add_number(command, "--trace-block-size", "timed_trace: tokens that one of hash_ids stands for [512]",
             options.trace_block_size, 1, 1 << 20);
  add_value(command, "--seed", "N", "of lengths, prompts and times: the same seed, the same load [0]",
            [&options](const std::string& text) -> Result<void> {
              const Result<std::uint64_t> value = parse_unsigned(text);
              if (!value) return value.error();
              options.seed = *value;
              return {};
            });
}

Result<std::vector<load::LoadRequest>> make_requests(const DatasetOptions& options,
                                                     const load::PromptSource& source,
                                                     const load::CountTokens& count) {
  runtime::Random random(options.seed);
  if (options.name != "timed_trace" && options.self_timed)
    return Error{Errc::kInvalidArgument, "--self-timed is for --dataset-name timed_trace only"};
  if (options.name != "random" && options.name != "lengths") return from_file(options, source, count, random);
  if (!options.path.empty())
    return Error{Errc::kInvalidArgument, "--dataset-name " + options.name + " reads no --dataset-path"};
  std::vector<load::Lengths> lengths;
  if (options.name == "random") {
    const load::Lengths mean{options.input_len.value_or(options.random_input_len),
                             options.output_len.value_or(options.random_output_len)};
    lengths = load::uniform_lengths(mean, options.random_range_ratio, options.num_prompts, random);
    DatasetOptions cut = options;
    cut.input_len = cut.output_len = {};  // they were the means
    cut_lengths(cut, lengths);
  } else {
    const Result<load::LengthTable> table = load::length_table(options.lengths);
    if (!table) return table.error();
    lengths = load::draw_lengths(*table, options.num_prompts, random);
    cut_lengths(options, lengths);
  }
  return load::synthetic_requests(lengths, options.random_prefix_len, source, random);
}

}  // namespace spillway::cli
