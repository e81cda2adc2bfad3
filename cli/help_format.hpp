// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <string>

namespace spillway::cli {

/// CLI11's help without what its own grammar adds to each option: REQUIRED, Excludes, {false}.
class HelpFormat final : public CLI::Formatter {
 public:
  HelpFormat() {
    column_width(34);
    label("Positionals", "Argument");
    label("Subcommands", "Commands");
  }
  std::string make_usage(const CLI::App* app, std::string name) const override;
  std::string make_option_name(const CLI::Option* option, bool positional) const override;
  std::string make_option_opts(const CLI::Option* option) const override;
};

/// No two blank lines after each other.
[[nodiscard]] std::string without_blank_pairs(std::string text);

}  // namespace spillway::cli
