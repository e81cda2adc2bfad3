// SPDX-License-Identifier: Apache-2.0
#pragma once

// Assertions for bugs, always on. Client input, a model file or a full pool must never reach one:
// those are expected failures and travel as Result<T>.

#include <cstdio>
#include <cstdlib>

namespace spillway::runtime::detail {

[[noreturn]] inline void check_failed(const char* expression, const char* file, int line) noexcept {
  std::fprintf(stderr, "%s:%d: check failed: %s\n", file, line, expression);
  std::abort();
}

}  // namespace spillway::runtime::detail

#define SPW_CHECK(expression)                                                            \
  (static_cast<bool>(expression)                                                         \
       ? static_cast<void>(0)                                                            \
       : ::spillway::runtime::detail::check_failed(#expression, __FILE__, __LINE__))
