#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes C++ that holds the page's files: embed_page.py OUT FILE..."""

import pathlib
import sys

TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8",
         ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}


def main() -> None:
    out, files = sys.argv[1], [pathlib.Path(name) for name in sys.argv[2:]]
    lines = ['#include "net/page.hpp"', "", "namespace spillway::net {", "namespace {", ""]
    entries = []
    for number, file in enumerate(files):
        data = file.read_bytes()
        lines.append(f"constexpr char kFile{number}[] = {{")
        for at in range(0, len(data), 24):
            lines.append("    " + ",".join(f"'\\x{byte:02x}'" for byte in data[at:at + 24]) + ",")
        lines.append("};")
        path = "/" if file.name == "index.html" else f"/page/{file.name}"
        entries.append(f'    {{"{path}", "{TYPES[file.suffix]}", {{kFile{number}, sizeof kFile{number}}}}},')
    lines += ["", "constexpr PageFile kFiles[] = {", *entries, "};", "", "}  // namespace", "",
              "const PageFile* find_page_file(std::string_view path) noexcept {",
              "  for (const PageFile& file : kFiles) {", "    if (file.path == path) return &file;", "  }",
              "  return nullptr;", "}", "", "}  // namespace spillway::net", ""]
    pathlib.Path(out).write_text("\n".join(lines))


main()
