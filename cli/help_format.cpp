// SPDX-License-Identifier: Apache-2.0
#include "cli/help_format.hpp"

namespace spillway::cli {

std::string HelpFormat::make_usage(const CLI::App* app, std::string name) const {
  const bool is_leaf = app->get_subcommands({}).empty();
  const bool has_model = !app->get_options([](const CLI::Option* option) { return option->get_positional(); }).empty();
  return "\nUsage: " + (name.empty() ? app->get_name() : name) + (is_leaf ? "" : " COMMAND") +
         (has_model || !is_leaf ? " MODEL" : "") + " [OPTIONS]\n\n";
}

std::string HelpFormat::make_option_name(const CLI::Option* option, bool positional) const {
  const std::string& negated = option->get_fnames().empty() ? "" : option->get_fnames().front();
  const std::string& name = option->get_lnames().empty() ? "" : option->get_lnames().front();
  if (!positional && !negated.empty() && negated == "no-" + name) return "--[no-]" + name;
  return CLI::Formatter::make_option_name(option, positional);
}

std::string HelpFormat::make_option_opts(const CLI::Option* option) const {
  const std::string type = option->get_type_name();
  return option->get_type_size() == 0 || type.empty() ? "" : " " + type;
}

std::string without_blank_pairs(std::string text) {
  for (std::size_t at; (at = text.find("\n\n\n")) != std::string::npos;) text.erase(at, 1);
  return text;
}

}  // namespace spillway::cli
