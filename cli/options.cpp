// SPDX-License-Identifier: Apache-2.0
#include "cli/options.hpp"

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <algorithm>
#include <limits>
#include <utility>

#include "cli/log.hpp"
#include "cli/option_values.hpp"
#include "cli/values.hpp"

namespace spillway::cli {
namespace {

void add_real(CLI::App& command, const std::string& name, const std::string& help,
              std::optional<float>& target) {
  add_value(command, name, "X", help, [&target](const std::string& text) -> Result<void> {
    const Result<float> value = parse_real(text);
    if (!value) return value.error();
    target = *value;
    return {};
  });
}

/// One word of a closed set.
template <class T>
void add_choice(CLI::App& command, const std::string& name, const std::string& help, T& target,
                std::vector<std::pair<std::string, T>> choices) {
  std::string words;
  for (const auto& [word, value] : choices) words += (words.empty() ? "" : "|") + word;
  add_value(command, name, words, help,
            [&target, choices = std::move(choices), words](const std::string& text) -> Result<void> {
              for (const auto& [word, value] : choices) {
                if (text != word) continue;
                target = value;
                return {};
              }
              return Error{Errc::kInvalidArgument, "'" + text + "' is not one of " + words};
            });
}

void add_engine_group(CLI::App& command, EngineOptions& options) {
  const OptionGroup group(command, "Engine");
  add_choice<std::optional<DeviceKind>>(command, "--device",
                                        "what computes; auto: a CUDA GPU where there is one, else the host [auto]",
                         options.device,
                         {{"auto", DeviceKind::kAuto}, {"cuda", DeviceKind::kCuda}, {"host", DeviceKind::kHost}});
  add_choice<model::LoadFormat>(command, "--load-format",
                                "dummy: random weights of config.json's shape, on a GPU, to measure it [auto]",
                                options.load_format,
                                {{"auto", model::LoadFormat::kAuto}, {"dummy", model::LoadFormat::kDummy}});
  add_value(command, "--gpu-memory-utilization", "X", "share of a GPU's memory to use [0.9]",
            [&options](const std::string& text) -> Result<void> {
              const Result<float> value = parse_real(text);
              if (!value) return value.error();
              if (!(*value > 0 && *value <= 1))
                return Error{Errc::kInvalidArgument, "'" + text + "' is not above 0 and at most 1"};
              options.gpu_memory_utilization = *value;
              return {};
            });
  add_number(command, "--tensor-parallel-size", "GPUs that share the model; divides its heads [1]",
             options.tensor_parallel_size, 1, 64);
  add_number(command, "--max-num-seqs", "most sequences in one step [64, on a GPU 256]", options.max_num_seqs, 1, 65536);
  add_number(command, "--max-num-batched-tokens", "most tokens in one step [512, on a GPU 8192]",
            options.max_num_batched_tokens, 1, 1 << 20);
  add_choice<KvCacheDType>(command, "--kv-cache-dtype",
                           "type of the KV cache; auto: fp32 for fp32 weights, else 16 bits [auto]",
                           options.kv_cache_dtype,
                           {{"auto", KvCacheDType::kAuto},
                            {"fp32", KvCacheDType::kF32},
                            {"fp16", KvCacheDType::kF16},
                            {"bf16", KvCacheDType::kBF16},
                            {"q8_0", KvCacheDType::kQ8_0}});
  add_value(command, "--kv-cache-memory-bytes", "SIZE",
            "memory for keys and values, such as 512MiB or 2G [224MiB, or what one longest sequence needs; serve: up to 2GiB"
            " when sequences need it; what a GPU has free]",
            [&options](const std::string& text) -> Result<void> {
              const Result<std::uint64_t> value = parse_bytes(text);
              if (!value) return value.error();
              if (*value == 0) return Error{Errc::kInvalidArgument, "'" + text + "' holds no token"};
              options.kv_cache_memory_bytes = *value;
              return {};
            });
  add_number(command, "--block-size", "tokens in a block of the KV cache [16]", options.block_size, 1, 4096);
  add_number(command, "--max-model-len",
            "longest prompt and answer together, tokens [as the model was trained]", options.max_model_len,
            1);
  command.add_flag_function(
      "--enable-prefix-caching,!--no-enable-prefix-caching",
      [&options](std::int64_t count) { options.enable_prefix_caching = count > 0; },
      "share the KV of equal beginnings of prompts [on]");
  add_number(command, "--async-submit", "steps under way at once; 1: plan a step when the last is done [2]",
            options.async_submit, 1, 8);
  add_value(command, "--max-itl-stretch", "X",
            "longest step with a part of a prompt, in steps without; 0: no limit [0, for serve 1.4]",
            [&options](const std::string& text) -> Result<void> {
              const Result<float> value = parse_real(text);
              if (!value) return value.error();
              if (*value != 0 && !(*value > 1 && *value <= 1000))
                return Error{Errc::kInvalidArgument, "'" + text + "' is not 0 or above 1"};
              options.max_itl_stretch = *value;
              return {};
            });
  add_number(command, "--threads", "threads that compute [one a core]", options.threads, 1, 1024);
  add_choice<std::string>(command, "--cpu-target", "widest instructions to use, of those the CPU has [auto]",
                          options.cpu_target,
                          {{"auto", ""}, {"scalar", "scalar"}, {"avx2", "avx2"}, {"avx512", "avx512vnni"},
                           {"avx512bf16", "avx512bf16"}, {"amx", "amx"}});
  using gpu::host::ExecutionMode;
  add_choice<ExecutionMode>(command, "--execution-mode",
                            "on a CPU with AVX-512 and without AMX; performance: products with quantized weights of "
                            "8-bit activations, prompts a fifth sooner [accuracy]",
                            options.execution_mode,
                            {{"accuracy", ExecutionMode::kAccuracy}, {"performance", ExecutionMode::kPerformance}});
  command.add_flag("--trace-kernels", options.trace_kernels, "with --trace, on a GPU: every kernel too (slower)");
  add_value(command, "--trace", "FILE", "write what ran when as Chrome trace JSON (ui.perfetto.dev opens it)",
            [&options](const std::string& text) -> Result<void> {
              if (text.empty()) return Error{Errc::kInvalidArgument, "'' is not a file name"};
              options.trace = text;
              return {};
            });
  add_log_level(command);
}

}  // namespace

CLI::Option* add_value(CLI::App& command, const std::string& name, const std::string& type,
                       const std::string& help, std::function<Result<void>(const std::string&)> parse) {
  CLI::Option* option = command.add_option_function<std::string>(
      name,
      [name, parse = std::move(parse)](const std::string& text) {
        if (const Result<void> done = parse(text); !done)
          throw OptionError{name + ": " + done.error().message};
      },
      help);
  return option->type_name(type)->take_last();
}

Result<void> validate_options(const SamplingFields& fields) {
  model::SamplingParams params;
  fields.apply_to(params);
  Result<void> valid = model::validate(params);
  if (valid) return valid;
  // The message begins with the field; on the command line that is an option.
  std::string message = "--" + valid.error().message;
  const auto end = message.begin() + static_cast<std::ptrdiff_t>(std::min(message.find(' '), message.size()));
  std::replace(message.begin(), end, '_', '-');
  return Error{Errc::kInvalidArgument, std::move(message)};
}

void add_model(CLI::App& command, std::filesystem::path& model) {
  command
      .add_option_function<std::string>(
          "MODEL", [&model](const std::string& text) { model = text; },
          "a GGUF file, or a Hugging Face directory with config.json and *.safetensors")
      ->required()
      ->type_name("");
}

void add_sampling_options(CLI::App& command, SamplingFields& fields) {
  const OptionGroup group(command, "Sampling");
  add_number(command, "--max-tokens", "most tokens of an answer; 0: compute the prompt only [256]",
            fields.max_tokens, 0);
  add_real(command, "--temperature", "0: always the likeliest token [the model's generation_config, else 1]",
           fields.temperature);
  add_number(command, "--top-k", "draw from the N likeliest; 0 or -1: from all [generation_config, else 0]",
            fields.top_k, -1);
  add_real(command, "--top-p",
           "draw from the likeliest that make up this probability [generation_config, else 1]", fields.top_p);
  add_real(command, "--min-p", "leave out tokens below this share of the likeliest one's probability [0]",
           fields.min_p);
  add_real(command, "--repetition-penalty",
           "over 1: tokens of prompt and answer get rarer [generation_config, else 1]",
           fields.repetition_penalty);
  add_real(command, "--presence-penalty", "-2 to 2: taken from a token's logit if the answer has it [0]",
           fields.presence_penalty);
  add_real(command, "--frequency-penalty", "-2 to 2: the same, times how often the answer has it [0]",
           fields.frequency_penalty);
  add_value(command, "--seed", "N", "the same seed draws the same tokens [random; --stats shows it]",
            [&fields](const std::string& text) -> Result<void> {
              const Result<std::uint64_t> value = parse_unsigned(text);
              if (!value) return value.error();
              fields.seed = *value;
              return {};
            });
  command
      .add_option_function<std::vector<std::string>>(
          "--stop", [&fields](const std::vector<std::string>& stops) { fields.stop = stops; },
          "end the answer before this text; may be given several times")
      ->type_name("TEXT")
      ->expected(1)
      ->take_all();
  command.add_flag_function(
      "--ignore-eos", [&fields](std::int64_t) { fields.ignore_eos = true; },
      "go on past the end that the model wants");
}

void add_answer_options(CLI::App& command, SamplingFields& fields) {
  const OptionGroup group(command, "Sampling");
  add_number(command, "--n", "answers to each prompt [1]", fields.n, 1);
  add_number(command, "--logprobs",
            "with --json: log probability of each token, and of the N likeliest [none]", fields.logprobs, 0);
}

void add_engine_options(CLI::App& command, EngineOptions& options) {
  add_engine_group(command, options);
  add_node_options(command, options.nodes);
}

void add_log_level(CLI::App& command) {
  std::string words;
  for (const std::string_view level : log_levels()) words += (words.empty() ? "" : "|") + std::string(level);
  add_value(command, "--log-level", words, "what is logged to stderr [warn]",
            [words](const std::string& text) -> Result<void> {
              if (set_log_level(text)) return {};
              return Error{Errc::kInvalidArgument, "'" + text + "' is not one of " + words};
            });
}

}  // namespace spillway::cli
