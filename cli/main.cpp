// SPDX-License-Identifier: Apache-2.0
// spillway: parses the command line and runs one command.

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <algorithm>
#include <exception>
#include <new>
#include <vector>

#include "cli/closest_word.hpp"
#include "cli/command.hpp"
#include "cli/help_format.hpp"
#include "cli/interrupt.hpp"
#include "cli/log.hpp"
#include "cli/options.hpp"
#include "cli/output.hpp"
#include "cli/report.hpp"
#include "cli/serve_config.hpp"
#include "cli/stats.hpp"

namespace spillway::cli {
namespace {

constexpr std::string_view kFooter =
    "Exit codes: 0 done, 1 failed, 2 wrong input, 130 stopped by Ctrl-C (143 by SIGTERM).\n";

/// The command that the line names, or the root.
CLI::App& chosen(CLI::App& root) {
  const std::vector<CLI::App*> commands = root.get_subcommands();
  return commands.empty() ? root : chosen(*commands.front());
}

std::string full_name(CLI::App& root, CLI::App& command) {
  if (&command == &root) return root.get_name();
  return full_name(root, *command.get_parent()) + " " + command.get_name();
}

/// What was left over on the command line: an option or a command that does not exist, or one argument too
/// many.
std::string unknown_text(CLI::App& root) {
  CLI::App& command = chosen(root);
  const std::string help = full_name(root, command) + " --help";
  const std::vector<std::string> rest = root.remaining(true);
  if (rest.empty()) return "the command line is wrong; see " + help;
  const std::string& word = rest.front();
  const bool is_option = word.size() > 1 && word.front() == '-';
  const bool is_leaf = command.get_subcommands({}).empty();
  if (!is_option && is_leaf) return "unexpected argument '" + word + "'; see " + help;
  std::vector<std::string> known;
  if (is_option) {
    for (const CLI::Option* option : command.get_options()) {
      for (const std::string& name : option->get_lnames()) known.push_back("--" + name);
    }
  } else {
    for (const CLI::App* each : command.get_subcommands({})) known.push_back(each->get_name());
  }
  const std::string name = word.substr(0, word.find('='));
  std::string text = std::string(is_option ? "unknown option '" : "unknown command '") + name + "'";
  if (const std::string close = closest_word(name, known); !close.empty())
    return text + "; did you mean " + close + "?";
  return text + "; see " + help;
}

int run(int argc, char** argv) {
  CLI::App root("Serves language models whose KV cache does not fit the memory.", "spillway");
  root.set_version_flag("--version", "spillway " SPILLWAY_VERSION);
  root.set_help_flag("-h,--help", "print this and exit");
  root.formatter(std::make_shared<HelpFormat>());
  root.footer(std::string(kFooter));

  struct Entry {
    CLI::App* app;
    Run run;
  };
  std::vector<Entry> entries;
  const auto add = [&](const char* name, const char* about, Run (*make)(CLI::App&)) {
    CLI::App* command = root.add_subcommand(name, about);
    command->footer(std::string(kFooter));
    entries.push_back({command, make(*command)});
  };
  add("generate", "answer a prompt, or a file of prompts as one batch", &make_generate);
  add("chat", "talk with a model", &make_chat);
  add("serve", "serve a model over HTTP and WebSocket, as the OpenAI API", &make_serve);
  add("inspect", "what a model is made of and what memory it takes", &make_inspect);
  add("bench", "measure a server, or the engine alone", &make_bench);
  add("tokenize", "lines of stdin as token ids", &make_tokenize);
  add("worker", "lend this host's GPUs to a model that another node serves", &make_worker);

  std::vector<std::string> words(argv + std::min(argc, 1), argv + argc);
  if (!words.empty() && words[0] == "serve") {
    const CLI::App* serve = root.get_subcommand("serve");
    const auto knows = [&](const std::string& name) { return serve->get_option_no_throw(name) != nullptr; };
    Result<std::vector<std::string>> merged = with_config({words.begin() + 1, words.end()}, knows);
    if (!merged) return complain(merged.error().message, kWrongInput);
    words = *std::move(merged);
    words.insert(words.begin(), "serve");
  }
  try {
    std::ranges::reverse(words);  // as CLI11 wants them
    root.parse(std::move(words));
  } catch (const OptionError& error) {
    return complain(error.message, kWrongInput);
  } catch (const CLI::Success& message) {  // --help, --version
    std::ostringstream text;
    root.exit(message, text, text);
    Output out;
    out.write(without_blank_pairs(text.str()));
    return out.finish();
  } catch (const CLI::ExtrasError&) {
    return complain(unknown_text(root), kWrongInput);
  } catch (const CLI::ParseError& error) {
    return complain(std::string(error.what()) + "; see " + full_name(root, chosen(root)) + " --help",
                    kWrongInput);
  }
  for (const Entry& entry : entries) {
    if (entry.app->parsed()) return entry.run();
  }
  return complain("which command? generate, chat, serve, inspect, bench, tokenize or worker; see spillway --help",
                  kWrongInput);
}

}  // namespace
}  // namespace spillway::cli

int main(int argc, char** argv) {
  using namespace spillway::cli;
  note_process_start();
  prepare_standard_streams();
  interrupt::install();
  try {
    start_log();
    return run(argc, argv);
  } catch (const std::bad_alloc&) {
    return complain("out of memory", kFailed);
  } catch (const std::exception& error) {
    return complain(error.what(), kFailed);
  }
}
