// SPDX-License-Identifier: Apache-2.0
#pragma once

// The page at /: files of net/page/, in the binary. page_files.cpp is made by meson from embed_page.py.

#include <string_view>

namespace spillway::net {

struct PageFile {
  std::string_view path;  // "/", "/page/page.js"
  std::string_view content_type;
  std::string_view content;
};

/// Null when there is none of that path.
[[nodiscard]] const PageFile* find_page_file(std::string_view path) noexcept;

/// The page loads nothing from anywhere else.
inline constexpr std::string_view kPageHeaders =
    "Cache-Control: no-cache\r\n"
    "Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self' ws: wss:; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n";

}  // namespace spillway::net
