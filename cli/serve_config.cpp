// SPDX-License-Identifier: Apache-2.0
#define TOML_EXCEPTIONS 0
#include "cli/serve_config.hpp"

#include <toml++/toml.h>

#include <algorithm>
#include <sstream>

namespace spillway::cli {
namespace {

class Words {
 public:
  explicit Words(std::string file) : file_(std::move(file)) {}

  void add_table(const toml::table& table) {
    for (const auto& [key, node] : table) {
      if (error_) return;
      if (const toml::table* inner = node.as_table()) {
        add_table(*inner);
      } else if (const toml::array* list = node.as_array()) {
        for (const toml::node& each : *list) add_one(std::string(key.str()), each);
      } else {
        add_one(std::string(key.str()), node);
      }
    }
  }

  [[nodiscard]] Result<std::vector<std::string>> take() && {
    if (error_) return *error_;
    return std::move(words_);
  }

 private:
  void add_one(std::string key, const toml::node& node) {
    std::replace(key.begin(), key.end(), '_', '-');
    const std::string option = "--" + key;
    std::ostringstream number;
    if (const auto* text = node.as_string()) {
      add(option, text->get());
    } else if (const auto* flag = node.as_boolean()) {
      if (flag->get()) {
        words_.push_back(option);
      } else {
        words_.push_back("--no-" + key);
      }
    } else if (node.is_integer() || node.is_floating_point()) {
      if (node.is_integer()) {
        number << node.as_integer()->get();
      } else {
        number << node.as_floating_point()->get();
      }
      add(option, number.str());
    } else {
      error_ = Error{Errc::kBadFile, file_ + ": line " + std::to_string(node.source().begin.line) + ": '" + key +
                                         "' must be text, a number, true, false or a list of those"};
    }
  }
  void add(const std::string& option, const std::string& value) { words_.push_back(option + "=" + value); }

  std::string file_;
  std::vector<std::string> words_;
  std::optional<Error> error_;
};

}  // namespace

Result<std::vector<std::string>> config_words(const std::filesystem::path& path) {
  const toml::parse_result parsed = toml::parse_file(path.string());
  if (!parsed) {
    const auto& error = parsed.error();
    return Error{Errc::kBadFile, path.string() + ": line " + std::to_string(error.source().begin.line) + ": " +
                                     std::string(error.description())};
  }
  Words words(path.string());
  words.add_table(parsed.table());
  return std::move(words).take();
}

}  // namespace spillway::cli
