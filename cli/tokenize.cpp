// SPDX-License-Identifier: Apache-2.0
// spillway tokenize: lines of stdin as token ids.

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <boost/json/value.hpp>
#include <cstring>
#include <memory>

#include "cli/answer_json.hpp"
#include "cli/command.hpp"
#include "cli/input.hpp"
#include "cli/options.hpp"
#include "cli/output.hpp"
#include "cli/report.hpp"
#include "model/json.hpp"
#include "model/tokenizer.hpp"

namespace spillway::cli {
namespace {

struct TokenizeOptions {
  std::filesystem::path model;
  bool json = false;
};

std::string ids_text(const std::vector<model::TokenId>& ids) {
  std::string text;
  for (const model::TokenId id : ids) text += (text.empty() ? "" : " ") + std::to_string(id);
  return text;
}

/// The text that a line stands for.
Result<std::string> text_of(const TokenizeOptions& options, std::string line, std::size_t number) {
  if (!options.json) return line;
  const std::string place = "stdin:" + std::to_string(number);
  Result<boost::json::value> value = model::parse_json(line, place);
  if (!value) return Error{Errc::kInvalidArgument, value.error().message};
  if (!value->is_string())
    return Error{Errc::kInvalidArgument, place + ": each line must be a JSON string such as \"hello\""};
  return std::string(std::string_view(value->get_string()));
}

int run(const TokenizeOptions& options) {
  const Result<model::Model> model = model::Model::load(options.model);
  if (!model) return complain(model.error());
  const Result<model::Tokenizer> tokenizer = model::load_tokenizer(*model);
  if (!tokenizer) return complain(tokenizer.error());
  Output out;
  LineReader reader(0);
  std::string line;
  LineReader::End end;
  for (std::size_t number = 1; out.good() && (end = reader.next(line)) == LineReader::End::kLine; ++number) {
    const Result<std::string> text = text_of(options, std::move(line), number);
    if (!text) return complain(text.error());
    const std::vector<model::TokenId> ids = tokenizer->encode(*text);
    out.write((options.json ? token_ids_json(ids) : ids_text(ids)) + "\n");
  }
  if (out.good() && end == LineReader::End::kError) {
    return complain(std::string("stdin: ") + std::strerror(reader.error()), kFailed);
  }
  return out.finish();
}

}  // namespace

Run make_tokenize(CLI::App& command) {
  const auto options = std::make_shared<TokenizeOptions>();
  add_model(command, options->model);
  command.add_flag("--json", options->json, "lines are JSON strings; each gives {\"token_ids\":[...]}");
  command.footer(
      "Special tokens in the text are read as plain text; the model's own beginning token is added where\n"
      "its tokenizer says so.\n\n" +
      command.get_footer());
  return [options] { return run(*options); };
}

}  // namespace spillway::cli
