// SPDX-License-Identifier: Apache-2.0
// spillway chat: a conversation. Each turn sends the whole conversation; its earlier part is found in the
// prefix cache, so only what is new is computed.

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <utility>

#include "cli/answer_writer.hpp"
#include "cli/command.hpp"
#include "cli/input.hpp"
#include "cli/interrupt.hpp"
#include "cli/options.hpp"
#include "cli/output.hpp"
#include "cli/report.hpp"
#include "cli/start_engine.hpp"
#include "cli/stats.hpp"

namespace spillway::cli {
namespace {

constexpr std::int32_t kMaxTokens = 1024;  // a conversation's answer is longer than a completion

constexpr std::string_view kHelp =
    "/reset         begin anew, the system message stays\n"
    "/system TEXT   set the system message (no TEXT: remove it)\n"
    "/stats         what the conversation took so far\n"
    "/help          this\n"
    "/exit          end (so does Ctrl-D; Ctrl-C stops an answer)\n";

struct ChatOptions {
  EngineOptions engine;
  SamplingFields sampling;
  std::string system;
  bool stats = false;
};

class Chat {
 public:
  Chat(Engine& engine, const ChatOptions& options)
      : engine_(engine),
        options_(options),
        system_(options.system),
        interactive_(is_terminal(0)),
        colour_(wants_colour(2)) {}

  int run() {
    say_welcome();
    LineReader reader(0);
    std::string line;
    for (;;) {
      ask();
      const LineReader::End end = reader.next(line);
      if (end == LineReader::End::kSignal) {
        if (interactive_) note("");
        return 128 + interrupt::signal();
      }
      if (end == LineReader::End::kError)
        return complain(std::string("stdin: ") + std::strerror(reader.error()), kFailed);
      if (end == LineReader::End::kEnd) {
        if (interactive_) note("");
        break;
      }
      if (line.ends_with('\r')) line.pop_back();
      if (line.find_first_not_of(" \t") == std::string::npos) continue;
      if (line == "/exit" || line == "/quit") break;
      line.front() == '/' ? command(line) : answer(line);
      // Somebody at a terminal goes on after Ctrl-C; lines from a file would only be answered one by one.
      if (interrupt::signal() != 0 && !interactive_) return 128 + interrupt::signal();
      interrupt::clear();
      if (!out_.good()) break;
    }
    return out_.good() && failed_ ? static_cast<int>(kFailed) : out_.finish();
  }

 private:
  void note(std::string_view text) const {
    const bool dim = colour_ && !text.empty();
    static_cast<void>(write_all(2, (dim ? "\x1b[2m" : "") + std::string(text) + (dim ? "\x1b[0m\n" : "\n")));
  }

  void say_welcome() const {
    if (!interactive_) return;
    const model::ModelSpec& spec = engine_.model().spec();
    note(without_controls(spec.name.empty() ? spec.architecture : spec.name) + ", " +
         std::to_string(engine_.max_model_len()) +
         " tokens of context. /help lists the commands, Ctrl-D ends.");
  }

  void ask() const {
    if (interactive_) static_cast<void>(write_all(2, colour_ ? "\x1b[1;32m>\x1b[0m " : "> "));
  }

  void command(const std::string& line) {
    const std::string word = line.substr(0, line.find_first_of(" \t"));
    if (word == "/reset") {
      turns_.clear();
      note("a new conversation");
    } else if (word == "/system") {
      const std::size_t text = line.find_first_not_of(" \t", word.size());
      system_ = text == std::string::npos ? "" : line.substr(text);
      note(system_.empty() ? "no system message" : "the system message is set");
    } else if (word == "/stats") {
      std::string text = stats_text(totals_of(answers_), engine_.stats(), engine_);
      text.pop_back();
      note(text);
    } else if (word == "/help") {
      note(kHelp.substr(0, kHelp.size() - 1));
    } else {
      complain("no command '" + word + "'; /help lists them", kWrongInput);
    }
  }

  void answer(const std::string& line) {
    turns_.push_back({"user", line});
    std::vector<model::Message> messages;
    if (!system_.empty()) messages.push_back({"system", system_});
    messages.insert(messages.end(), turns_.begin(), turns_.end());
    Result<std::vector<model::TokenId>> prompt = engine_.chat_prompt(messages);
    if (!prompt) return refuse(prompt.error());

    Job job;
    job.requests.push_back({std::move(*prompt), next_params()});
    StreamWriter writer(out_);
    job.listener = &writer;
    run_job(engine_, job);
    writer.end_line();
    Answer& answer = job.answers.front();
    if (answer.refused) return refuse(*answer.refused);
    ChoiceAnswer& choice = answer.choices.front();
    if (choice.error) {
      failed_ = true;
      complain(choice.error->message, kFailed);
    }
    if (interactive_ && choice.reason == FinishReason::kCancelled) note("(stopped)");
    if (interactive_ && choice.reason == FinishReason::kLength) {
      note("(cut after " + std::to_string(choice.tokens.size()) + " tokens)");
    }
    if (options_.stats) say_stats(answer);
    turns_.push_back({"assistant", std::move(choice.text)});
    choice.tokens = {};
    answers_.push_back(std::move(answer));
  }

  /// The turn did not happen.
  void refuse(const Error& error) {
    turns_.pop_back();
    if (error.code == Errc::kCancelled) return;
    failed_ = true;
    complain(error.message + (turns_.empty() ? "" : "; /reset begins a new conversation"), kFailed);
  }

  void say_stats(const Answer& answer) const {
    const JobTotals totals = totals_of({answer});
    char text[160];
    std::snprintf(
        text, sizeof text,
        "(%llu prompt tokens, %llu of them cached; first token after %.3f s; %llu tokens, %.1f a second)",
        static_cast<unsigned long long>(totals.prompt_tokens),
        static_cast<unsigned long long>(totals.cached_tokens), totals.first_token_mean_s,
        static_cast<unsigned long long>(totals.completion_tokens),
        totals.decode_s > 0 ? static_cast<double>(totals.completion_tokens - 1) / totals.decode_s : 0.0);
    note(text);
  }

  model::SamplingParams next_params() {
    model::SamplingParams params;
    params.max_tokens = kMaxTokens;
    params.seed = std::uint64_t{random_()} << 32 | random_();
    apply(engine_.model().generation_defaults(), params);
    options_.sampling.apply_to(params);
    return params;
  }

  Engine& engine_;
  const ChatOptions& options_;
  std::string system_;
  const bool interactive_, colour_;
  Output out_;
  std::random_device random_;
  std::vector<model::Message> turns_;
  std::vector<Answer> answers_;  // without their texts, for /stats
  bool failed_ = false;
};

int run(const ChatOptions& options) {
  if (Result<void> valid = validate_options(options.sampling); !valid) return complain(valid.error());
  Result<std::unique_ptr<Engine>> engine = start_engine(options.engine);
  if (!engine) return complain(engine.error());
  if (!(*engine)->model().chat_template()) {
    return complain(
        options.engine.model.string() + ": the model has no chat template; spillway generate completes text",
        kWrongInput);
  }
  interrupt::defer(true);
  const int code = Chat(**engine, options).run();
  (*engine)->shutdown();
  return code;
}

}  // namespace

Run make_chat(CLI::App& command) {
  const auto options = std::make_shared<ChatOptions>();
  add_model(command, options->engine.model);
  command.add_option("--system", options->system, "the system message")->type_name("TEXT");
  command.add_flag("--stats", options->stats, "after each answer, say on stderr what it took");
  add_sampling_options(command, options->sampling);
  add_engine_options(command, options->engine);
  add_sparse_options(command, options->engine);
  command.footer("Questions are lines of stdin. In the conversation:\n" + std::string(kHelp) + "\n" +
                 command.get_footer());
  return [options] { return run(*options); };
}

}  // namespace spillway::cli
