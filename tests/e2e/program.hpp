// SPDX-License-Identifier: Apache-2.0
#pragma once

// Runs the real spillway binary, as a shell would. SPILLWAY names it; SPILLWAY_SOURCE is the source tree.

#include <sys/types.h>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace spillway::e2e {

struct Ran {
  int code = -1;  // exit status, or -signal
  std::string out, err;
};

/// The program's path and the arguments; stdin is `input`.
[[nodiscard]] Ran run_program(const std::vector<std::string>& command, std::string_view input = "");
/// spillway with these arguments.
[[nodiscard]] Ran spillway(std::vector<std::string> arguments, std::string_view input = "");

/// A program that is still running.
class Running {
 public:
  explicit Running(std::vector<std::string> arguments, std::string_view input = "");
  ~Running();
  Running(const Running&) = delete;
  Running& operator=(const Running&) = delete;

  /// Reads stdout until it holds `text` or ends; what was read so far.
  [[nodiscard]] std::string read_until(std::string_view text);
  void signal(int number) const;
  void close_stdout();
  /// Waits for the end; `out` is all of stdout.
  [[nodiscard]] Ran finish();

 private:
  pid_t pid_ = -1;
  int out_ = -1, err_ = -1;
  std::string read_;
};

[[nodiscard]] std::filesystem::path source_root();

/// A directory that goes with the process.
[[nodiscard]] const std::filesystem::path& scratch();
std::filesystem::path write_file(const std::string& name, std::string_view text);

/// One of tests/data/models with a tokenizer whose token ids are the ASCII codes, and a chat template.
/// `context` replaces the trained context (0: as it is).
[[nodiscard]] std::filesystem::path tiny_model(const std::string& name = "llama-gqa", int context = 0);

/// SmolLM2, empty when it has not been fetched.
[[nodiscard]] std::filesystem::path real_model();

[[nodiscard]] std::vector<std::string> lines_of(std::string_view text);

}  // namespace spillway::e2e
