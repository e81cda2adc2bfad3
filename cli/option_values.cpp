// SPDX-License-Identifier: Apache-2.0
#include "cli/option_values.hpp"

#include <algorithm>

namespace spillway::cli {

CLI::Option* add_texts(CLI::App& command, const std::string& name, const std::string& type,
                       const std::string& help, std::vector<std::string>& target) {
  return command
      .add_option_function<std::vector<std::string>>(
          name, [&target](const std::vector<std::string>& texts) { target = texts; }, help)
      ->type_name(type)
      ->take_all()
      ->expected(1)
      ->allow_extra_args(false);
}

CLI::Option* add_word(CLI::App& command, const std::string& name, const std::string& help,
                      std::string& target, const std::vector<std::string>& words) {
  std::string all;
  for (const std::string& word : words) all += (all.empty() ? "" : "|") + word;
  return add_value(command, name, all, help, [&target, words, all](const std::string& text) -> Result<void> {
    if (std::find(words.begin(), words.end(), text) == words.end())
      return Error{Errc::kInvalidArgument, "'" + text + "' is not one of " + all};
    target = text;
    return {};
  });
}

}  // namespace spillway::cli
