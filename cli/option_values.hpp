// SPDX-License-Identifier: Apache-2.0
#pragma once

// Options that are a number, a word of a set, or stand in a group of the help. Included where options are
// declared.

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "cli/options.hpp"
#include "cli/values.hpp"

namespace spillway::cli {

/// Options added in its lifetime stand together in the help.
class OptionGroup {
 public:
  OptionGroup(CLI::App& command, std::string name)
      : command_(command), name_(std::move(name)), before_(command.get_options().size()) {}
  OptionGroup(const OptionGroup&) = delete;
  OptionGroup& operator=(const OptionGroup&) = delete;
  ~OptionGroup() {
    const std::vector<CLI::Option*> options = command_.get_options();
    for (std::size_t i = before_; i < options.size(); ++i) options[i]->group(name_);
  }

 private:
  CLI::App& command_;
  std::string name_;
  std::size_t before_;
};

/// A whole number, or an optional one.
template <class T>
CLI::Option* add_number(CLI::App& command, const std::string& name, const std::string& help, T& target,
                        std::int64_t min, std::int64_t max = std::numeric_limits<std::int32_t>::max(),
                        const std::string& type = "N") {
  return add_value(command, name, type, help, [&target, min, max](const std::string& text) -> Result<void> {
    const Result<std::int64_t> value = parse_integer(text, min, max);
    if (!value) return value.error();
    if constexpr (requires { typename T::value_type; }) {
      target = static_cast<typename T::value_type>(*value);
    } else {
      target = static_cast<T>(*value);
    }
    return {};
  });
}

/// A number from min to max, or an optional one; "inf" where max is infinite.
template <class T>
CLI::Option* add_decimal(CLI::App& command, const std::string& name, const std::string& help, T& target,
                         double min, double max) {
  return add_value(command, name, "X", help, [&target, min, max](const std::string& text) -> Result<void> {
    const Result<double> value = parse_decimal(text, min, max);
    if (!value) return value.error();
    target = *value;
    return {};
  });
}

/// Any text: a std::string or a path.
template <class T>
CLI::Option* add_text(CLI::App& command, const std::string& name, const std::string& type,
                      const std::string& help, T& target) {
  return add_value(command, name, type, help, [&target](const std::string& text) -> Result<void> {
    target = text;
    return {};
  });
}

/// Texts, by giving the option several times.
CLI::Option* add_texts(CLI::App& command, const std::string& name, const std::string& type,
                       const std::string& help, std::vector<std::string>& target);

/// One word of a closed set.
CLI::Option* add_word(CLI::App& command, const std::string& name, const std::string& help,
                      std::string& target, const std::vector<std::string>& words);

}  // namespace spillway::cli
