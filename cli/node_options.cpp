// SPDX-License-Identifier: Apache-2.0
// Options of models that several processes share. Names follow vLLM's (--nnodes, --node-rank, --master-addr,
// --master-port); its second server with --headless is `spillway worker` here, which is told everything else.

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>

#include "cli/option_values.hpp"
#include "cli/options.hpp"
#include "cli/values.hpp"

namespace spillway::cli {

void add_master_options(CLI::App& command, NodeOptions& nodes) {
  add_text(command, "--master-addr", "ADDRESS", "node 0's, where it waits for the others [127.0.0.1]",
           nodes.master_addr);
  add_number(command, "--master-port", "its port [29501]", nodes.master_port, 1, 65535);
  add_text(
      command, "--master-key-file", "FILE",
      "a secret that all nodes share, at least 16 bytes [none; then node 0 must be on a loopback address]",
      nodes.key_file);
  add_value(command, "--nodes-timeout", "SECONDS",
            "for all nodes to come, and for each part of their start [600]",
            [&nodes](const std::string& text) -> Result<void> {
              const Result<std::int64_t> value = parse_integer(text, 1, 86400);
              if (!value) return value.error();
              nodes.timeout = std::chrono::seconds(*value);
              return {};
            });
}

void add_node_options(CLI::App& command, NodeOptions& nodes) {
  const OptionGroup group(command, "Several nodes");
  add_number(command, "--nnodes",
             "processes, on any hosts, whose GPUs share the model; each has as many. The others run "
             "spillway worker [1]",
             nodes.nodes, 1, 64);
  add_master_options(command, nodes);
}

}  // namespace spillway::cli
