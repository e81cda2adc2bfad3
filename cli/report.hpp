// SPDX-License-Identifier: Apache-2.0
#pragma once

// How a command ends: its exit code, and for a failure one line on stderr.

#include <string>
#include <string_view>

#include "runtime/result.hpp"

namespace spillway::cli {

enum ExitCode : int {
  kDone = 0,
  kFailed = 1,      // a request was refused or failed, the disk is full, ...
  kWrongInput = 2,  // an unknown option, no such model, a broken file, a malformed line: nothing has run
  // 128 + signal number (130 for Ctrl-C): stopped by a signal, after what there was had been written
};

/// Wrong input for what the caller can put right, a failure for the rest.
[[nodiscard]] int exit_code_of(Errc code) noexcept;

/// Writes "spillway: MESSAGE" as one line to stderr; returns `code`, so that a command can end with it.
int complain(std::string_view message, int code);
int complain(const Error& error);

/// Control characters, line ends among them, as \n, \t or \xNN; everything else as it is.
[[nodiscard]] std::string one_line(std::string_view text);

}  // namespace spillway::cli
