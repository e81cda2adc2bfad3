// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

#include "runtime/check.hpp"
#include "runtime/result.hpp"

namespace spillway::fuzz {

/// Every refusal is one short line that begins with the file's name.
inline void check_message(const Error& error, std::string_view file) {
  SPW_CHECK(std::string_view(error.message).starts_with(file));
  SPW_CHECK(error.message.find('\n') == std::string::npos);
  SPW_CHECK(error.message.size() < 2000);
}

}  // namespace spillway::fuzz
