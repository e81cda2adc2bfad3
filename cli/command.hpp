// SPDX-License-Identifier: Apache-2.0
#pragma once

// The subcommands. Each declares its options on a CLI::App and gives what to run once they are parsed; what
// it returns is the process's exit code.

#include <functional>

namespace CLI {
class App;
}

namespace spillway::cli {

using Run = std::function<int()>;

[[nodiscard]] Run make_generate(CLI::App& command);
[[nodiscard]] Run make_chat(CLI::App& command);
[[nodiscard]] Run make_serve(CLI::App& command);
[[nodiscard]] Run make_inspect(CLI::App& command);
[[nodiscard]] Run make_bench(CLI::App& command);
[[nodiscard]] Run make_tokenize(CLI::App& command);
[[nodiscard]] Run make_worker(CLI::App& command);

}  // namespace spillway::cli
