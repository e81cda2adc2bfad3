// SPDX-License-Identifier: Apache-2.0
#include "cli/answer_writer.hpp"

#include <utility>

#include "cli/answer_json.hpp"
#include "cli/report.hpp"
#include "cli/stats.hpp"

namespace spillway::cli {

AnswerWriter::AnswerWriter(Job& job, Output& out, AnswerFormat format, std::vector<std::string> ids,
                           ProgressBar* bar)
    : job_(job), out_(out), format_(format), ids_(std::move(ids)), bar_(bar), ended_(job.requests.size()) {}

bool AnswerWriter::on_delta(std::size_t /*request*/, const ChoiceDelta& delta) {
  if (bar_ != nullptr) {
    bar_->tokens_came(delta.tokens.size());
    bar_->update(seconds_since_process_start());
  }
  return out_.good();
}

bool AnswerWriter::on_end(std::size_t request) {
  ended_[request] = true;
  if (bar_ != nullptr) bar_->request_done();
  for (; next_ < ended_.size() && ended_[next_]; ++next_) {
    if (bar_ != nullptr && out_.is_terminal()) bar_->clear();
    write(next_);
    // A batch may be long: keep what the statistics read, drop what is on paper.
    job_.requests[next_].prompt = {};
    for (ChoiceAnswer& choice : job_.answers[next_].choices) {
      choice.text = {};
      choice.tokens = {};
    }
  }
  if (bar_ != nullptr) bar_->update(seconds_since_process_start());
  return out_.good();
}

void AnswerWriter::write(std::size_t request) {
  const Answer& answer = job_.answers[request];
  bool failed = answer.refused.has_value();
  for (const ChoiceAnswer& choice : answer.choices) failed = failed || choice.error.has_value();
  failed_ += failed ? 1 : 0;
  format_ == AnswerFormat::kJson ? write_json(request) : write_text(request);
}

void AnswerWriter::write_json(std::size_t request) {
  const Answer& answer = job_.answers[request];
  const GenerationRequest& asked = job_.requests[request];
  if (answer.refused) {
    out_.write(error_json(ids_[request], 0, *answer.refused) + "\n");
    return;
  }
  std::string lines;
  for (std::size_t choice = 0; choice < answer.choices.size(); ++choice) {
    lines +=
        choice_json(ids_[request], choice, asked.prompt, answer.choices[choice], asked.params.logprobs >= 0) +
        "\n";
  }
  out_.write(lines);
}

void AnswerWriter::write_text(std::size_t request) {
  const Answer& answer = job_.answers[request];
  const bool many = job_.requests.size() > 1;
  const std::string about = many ? "request " + ids_[request] + ": " : "";
  if (answer.refused) {
    complain(about + answer.refused->message, kFailed);
    return;
  }
  for (std::size_t i = 0; i < answer.choices.size(); ++i) {
    const ChoiceAnswer& choice = answer.choices[i];
    std::string header = many ? ids_[request] : "";
    if (answer.choices.size() > 1) {
      header += (many ? ", " : "") + std::to_string(i + 1) + " of " + std::to_string(answer.choices.size());
    }
    if (!header.empty()) out_.write("--- " + header + " ---\n");
    out_.write_text(choice.text + (choice.text.ends_with('\n') ? "" : "\n"));
    if (choice.error) complain(about + choice.error->message, kFailed);
  }
}

bool StreamWriter::on_delta(std::size_t /*request*/, const ChoiceDelta& delta) {
  if (delta.text.empty()) return out_.good();
  in_line_ = delta.text.back() != '\n';
  return out_.write_text(delta.text);
}

void StreamWriter::end_line() {
  if (std::exchange(in_line_, false)) out_.write("\n");
}

}  // namespace spillway::cli
