// SPDX-License-Identifier: Apache-2.0
// spillway generate: a prompt's answer as a stream, or a file of prompts as one batch.

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <memory>
#include <random>
#include <utility>

#include "cli/answer_writer.hpp"
#include "cli/batch_input.hpp"
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

struct GenerateOptions {
  EngineOptions engine;
  SamplingFields sampling;
  std::optional<std::string> prompt, system;
  std::filesystem::path prompt_file, batch_file;
  bool chat = false, json = false, stats = false;
};

void declare(CLI::App& command, GenerateOptions& options) {
  add_model(command, options.engine.model);
  const auto text = [&command](const char* name, const char* help, auto& target) {
    return command.add_option_function<std::string>(
        name, [&target](const std::string& value) { target = value; }, help);
  };
  CLI::Option* prompt =
      text("--prompt", "the prompt, as it is; without one it is read from stdin", options.prompt);
  CLI::Option* file =
      text("--prompt-file", "a file that holds it; its last line end is dropped", options.prompt_file);
  CLI::Option* batch =
      text("--prompts", "a batch: JSONL, one request a line (see below)", options.batch_file);
  prompt->type_name("TEXT")->excludes(file)->excludes(batch);
  file->type_name("FILE")->excludes(batch);
  batch->type_name("FILE");
  CLI::Option* chat =
      command.add_flag("--chat", options.chat, "send it as a user's message in the model's chat format");
  text("--system", "with --chat: the system message", options.system)->type_name("TEXT")->needs(chat);
  chat->excludes(batch);
  command.add_flag("--json", options.json, "JSON lines instead of text, one an answer (see below)");
  command.add_flag("--stats", options.stats, "at the end, say on stderr what it took");
  add_sampling_options(command, options.sampling);
  add_answer_options(command, options.sampling);
  add_engine_options(command, options.engine);
  add_sparse_options(command, options.engine);
  command.footer(
      "A batch's line is an object with one of prompt (text), prompt_token_ids (a list) and messages (a list "
      "of\n"
      "{\"role\",\"content\"}), and optionally id and any sampling option (max_tokens, temperature, stop, "
      "...), which\n"
      "wins over the command line's. Answers come in the order of the lines, with --json as\n"
      "  "
      "{\"id\",\"index\",\"prompt_token_ids\",\"text\",\"token_ids\",\"finish_reason\",\"logprobs\","
      "\"usage\"}\n"
      "or, for a request that was refused or failed, as {\"id\",\"index\",\"error\":{\"message\"}}; index "
      "counts the\n"
      "answers to one line (--n). Ctrl-C ends all answers early and writes what there is (finish_reason "
      "cancelled);\n"
      "a second one exits at once.\n\n" +
      command.get_footer());
}

/// The batch, or the one prompt as a batch of one line.
Result<std::vector<BatchLine>> read_requests(const GenerateOptions& options) {
  if (!options.batch_file.empty()) {
    Result<std::string> text = read_input(options.batch_file);
    if (!text) return Error{text.error().code, "--prompts: " + text.error().message};
    return parse_batch(*text, options.batch_file == "-" ? "stdin" : options.batch_file.string());
  }
  std::string prompt;
  if (options.prompt) {
    prompt = *options.prompt;
  } else {
    if (options.prompt_file.empty() && is_terminal(0)) {
      return Error{Errc::kInvalidArgument,
                   "which prompt? give --prompt TEXT, --prompt-file FILE, --prompts FILE or stdin"};
    }
    Result<std::string> text = read_input(options.prompt_file.empty() ? "-" : options.prompt_file);
    if (!text) return Error{text.error().code, "--prompt-file: " + text.error().message};
    prompt = without_last_line_end(std::move(*text));
  }
  std::vector<BatchLine> lines(1);
  lines[0].place = "the prompt";
  lines[0].id = "0";
  if (options.chat) {
    std::vector<model::Message> messages;
    if (options.system) messages.push_back({"system", *options.system});
    messages.push_back({"user", std::move(prompt)});
    lines[0].prompt = std::move(messages);
  } else {
    lines[0].prompt = std::move(prompt);
  }
  return lines;
}

Result<std::vector<model::TokenId>> tokens_of(const Engine& engine, const BatchLine& line) {
  if (const auto* ids = std::get_if<std::vector<model::TokenId>>(&line.prompt)) {
    for (const model::TokenId id : *ids) {
      if (id < engine.model().spec().vocab_size) continue;
      return Error{Errc::kInvalidArgument, "prompt_token_ids holds " + std::to_string(id) +
                                               "; the vocabulary ends at " +
                                               std::to_string(engine.model().spec().vocab_size - 1)};
    }
    return *ids;
  }
  if (const auto* messages = std::get_if<std::vector<model::Message>>(&line.prompt))
    return engine.chat_prompt(*messages);
  return engine.encode(std::get<std::string>(line.prompt));
}

Result<Job> make_job(const Engine& engine, const GenerateOptions& options,
                     const std::vector<BatchLine>& lines) {
  std::random_device random;
  Job job;
  for (const BatchLine& line : lines) {
    Result<std::vector<model::TokenId>> prompt = tokens_of(engine, line);
    if (!prompt) return Error{prompt.error().code, line.place + ": " + prompt.error().message};
    model::SamplingParams params;
    params.seed = std::uint64_t{random()} << 32 | random();
    apply(engine.model().generation_defaults(), params);
    params.sparse_kv = engine.options().sparse_kv;
    options.sampling.apply_to(params);
    line.sampling.apply_to(params);
    if (Result<void> valid = model::validate(params); !valid)
      return Error{valid.error().code, line.place + ": " + valid.error().message};
    job.requests.push_back({std::move(*prompt), std::move(params)});
  }
  return job;
}

/// One prompt, one answer, to be read as it comes. True if it failed.
bool stream(Engine& engine, Job& job, Output& out) {
  StreamWriter writer(out);
  job.listener = &writer;
  run_job(engine, job);
  writer.end_line();
  const Answer& answer = job.answers.front();
  if (answer.refused && answer.refused->code != Errc::kCancelled) complain(answer.refused->message, kFailed);
  for (const ChoiceAnswer& choice : answer.choices) {
    if (choice.error) complain(choice.error->message, kFailed);
  }
  return answer.refused || answer.choices.front().error;
}

/// Any number of prompts and answers, written in order. True if one failed.
bool batch(Engine& engine, Job& job, const GenerateOptions& options, std::vector<BatchLine> lines,
           Output& out) {
  std::optional<ProgressBar> bar;
  if (!options.batch_file.empty()) bar.emplace(lines.size());
  std::vector<std::string> ids;
  for (BatchLine& line : lines) ids.push_back(std::move(line.id));
  lines.clear();
  AnswerWriter writer(job, out, options.json ? AnswerFormat::kJson : AnswerFormat::kText, std::move(ids),
                      bar ? &*bar : nullptr);
  job.listener = &writer;
  run_job(engine, job);
  return writer.failed() != 0;
}

int run(const GenerateOptions& options) {
  if (Result<void> valid = validate_options(options.sampling); !valid) return complain(valid.error());
  if (options.sampling.logprobs && !options.json)
    return complain("--logprobs needs --json to be seen", kWrongInput);
  Result<std::vector<BatchLine>> lines = read_requests(options);
  if (!lines) return complain(lines.error());
  Result<std::unique_ptr<Engine>> engine = start_engine(options.engine);
  if (!engine) return complain(engine.error());
  Result<Job> job = make_job(**engine, options, *lines);
  if (!job) return complain(job.error());

  Output out;
  const model::SamplingParams first = job->requests.front().params;
  const bool single = lines->size() == 1 && options.batch_file.empty();
  interrupt::defer(true);
  const bool failed = single && first.n == 1 && !options.json
                          ? stream(**engine, *job, out)
                          : batch(**engine, *job, options, std::move(*lines), out);
  if (options.stats) {
    std::string text = stats_text(totals_of(job->answers), (*engine)->stats(), **engine);
    if (single && !first.greedy()) text += seed_text(first.seed);
    static_cast<void>(write_all(2, text));
  }
  (*engine)->shutdown();
  if (interrupt::signal() != 0) return 128 + interrupt::signal();
  const int code = out.finish();
  return out.good() && failed ? kFailed : code;
}

}  // namespace

Run make_generate(CLI::App& command) {
  const auto options = std::make_shared<GenerateOptions>();
  declare(command, *options);
  return [options] { return run(*options); };
}

}  // namespace spillway::cli
