// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "runtime/result.hpp"

namespace spillway::cli {

/// A TOML file as command line words, to be parsed before the real ones so that those win:
///   port = 8080             -> --port 8080
///   api-key = ["a", "b"]    -> --api-key a --api-key b
///   ignore-eos = true       -> --ignore-eos
/// "_" may stand for "-"; tables are only for order ([server], [engine]): their names do not count.
[[nodiscard]] Result<std::vector<std::string>> config_words(const std::filesystem::path& path);

/// The command line with the words of its --config file, if it names one, put before its own options. What the command
/// line says itself wins. `knows`: whether the command has an option of that name ("--port").
[[nodiscard]] Result<std::vector<std::string>> with_config(std::vector<std::string> words,
                                                           const std::function<bool(const std::string&)>& knows);

}  // namespace spillway::cli
