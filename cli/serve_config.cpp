// SPDX-License-Identifier: Apache-2.0
#include "cli/serve_config.hpp"

#include <toml++/toml.h>

#include <algorithm>
#include <iterator>
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

std::string name_of(const std::string& word) { return word.substr(0, word.find('=')); }
std::string without_no(const std::string& name) { return name.starts_with("--no-") ? "--" + name.substr(5) : name; }

}  // namespace

Result<std::vector<std::string>> with_config(std::vector<std::string> words,
                                             const std::function<bool(const std::string&)>& knows) {
  std::string file;
  std::vector<std::string> given;
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (!words[i].starts_with("--")) continue;
    const std::string name = name_of(words[i]);
    given.push_back(without_no(name));
    if (name != "--config") continue;
    if (words[i].size() > name.size()) {
      file = words[i].substr(name.size() + 1);
    } else if (i + 1 < words.size()) {
      file = words[i + 1];
    }
  }
  if (file.empty()) return words;
  Result<std::vector<std::string>> all = config_words(file);
  if (!all) return all.error();
  std::vector<std::string> merged;
  for (std::string& word : *all) {
    const std::string name = name_of(word), plain = without_no(name);
    if (!knows(name) && !knows(plain))
      return Error{Errc::kInvalidArgument, file + ": '" + plain + "' is no option; see spillway serve --help"};
    if (plain == "--config") return Error{Errc::kInvalidArgument, file + ": a config file names no other"};
    if (!knows(name)) continue;  // false, for a flag that is off unless given
    if (std::ranges::find(given, plain) == given.end()) merged.push_back(std::move(word));
  }
  merged.insert(merged.end(), std::make_move_iterator(words.begin()), std::make_move_iterator(words.end()));
  return merged;
}

Result<std::vector<std::string>> config_words(const std::filesystem::path& path) {
  toml::table table;
  try {
    table = toml::parse_file(path.string());
  } catch (const toml::parse_error& error) {
    return Error{Errc::kBadFile, path.string() + ": line " + std::to_string(error.source().begin.line) + ": " +
                                     std::string(error.description())};
  }
  Words words(path.string());
  words.add_table(table);
  return std::move(words).take();
}

}  // namespace spillway::cli
