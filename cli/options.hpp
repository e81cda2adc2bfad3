// SPDX-License-Identifier: Apache-2.0
#pragma once

// Option groups that several commands share. Meanings and defaults follow vLLM where it has the same option.

#include <cstdint>
#include <functional>
#include <string>

#include "actors/engine.hpp"
#include "cli/sampling_fields.hpp"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace spillway::cli {

/// Thrown by an option's own parser and caught where the command line is parsed.
struct OptionError {
  std::string message;
};

/// An option whose text is parsed by `parse`; an error becomes "--name: ...".
CLI::Option* add_value(CLI::App& command, const std::string& name, const std::string& type,
                       const std::string& help, std::function<Result<void>(const std::string&)> parse);

/// Refuses values out of their range, as "--max-tokens is ...".
[[nodiscard]] Result<void> validate_options(const SamplingFields& fields);

/// The MODEL argument.
void add_model(CLI::App& command, std::filesystem::path& model);

void add_sampling_options(CLI::App& command, SamplingFields& fields);
/// --n and --logprobs, which a conversation has no use for.
void add_answer_options(CLI::App& command, SamplingFields& fields);
void add_engine_options(CLI::App& command, EngineOptions& options);
/// Where node 0 is, for itself and for the others.
void add_master_options(CLI::App& command, NodeOptions& nodes);
void add_node_options(CLI::App& command, NodeOptions& nodes);

/// The --sparse-kv-cache options.
void add_sparse_options(CLI::App& command, EngineOptions& options);
/// "512", or "0.5" of the prompt.
[[nodiscard]] Result<void> parse_sparse_budget(std::string_view text, model::SparseKvParams& params);

/// --log-level: what the library logs, on stderr.
void add_log_level(CLI::App& command);

}  // namespace spillway::cli
