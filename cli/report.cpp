// SPDX-License-Identifier: Apache-2.0
#include "cli/report.hpp"

#include <cstdio>

#include "cli/output.hpp"

namespace spillway::cli {

int exit_code_of(Errc code) noexcept {
  switch (code) {
    case Errc::kInvalidArgument:
    case Errc::kNotFound:
    case Errc::kBadFile:
    case Errc::kUnsupported:
      return kWrongInput;
    case Errc::kOutOfMemory:
    case Errc::kQueueFull:
    case Errc::kCancelled:
    case Errc::kDeadlineExceeded:
    case Errc::kDeviceFailed:
    case Errc::kClosed:
    case Errc::kIo:
    case Errc::kInternal:
      return kFailed;
  }
  return kFailed;
}

int complain(std::string_view message, int code) {
  // A failure to write here has nobody left to be told to.
  static_cast<void>(write_all(2, "spillway: " + one_line(message) + "\n"));
  return code;
}

int complain(const Error& error) { return complain(error.message, exit_code_of(error.code)); }

std::string one_line(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '\n') {
      out += "\\n";
    } else if (c == '\t') {
      out += "\\t";
    } else if (byte < 0x20 || byte == 0x7f) {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\x%02x", byte);
      out += escape;
    } else {
      out += c;
    }
  }
  return out;
}

}  // namespace spillway::cli
