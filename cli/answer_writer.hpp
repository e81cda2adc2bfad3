// SPDX-License-Identifier: Apache-2.0
#pragma once

// Writes a job's answers to stdout in the order of the requests, each as soon as all before it are out.

#include <string>
#include <vector>

#include "cli/job.hpp"
#include "cli/output.hpp"
#include "cli/progress.hpp"

namespace spillway::cli {

enum class AnswerFormat { kJson, kText };

class AnswerWriter final : public JobListener {
 public:
  /// `ids[i]` is request i's id, as JSON. The bar may be null. Both references outlive the writer.
  AnswerWriter(Job& job, Output& out, AnswerFormat format, std::vector<std::string> ids, ProgressBar* bar);

  bool on_delta(std::size_t request, const ChoiceDelta& delta) override;
  bool on_end(std::size_t request) override;

  /// Requests that were refused, or that have a choice that failed, among those written.
  [[nodiscard]] std::size_t failed() const noexcept { return failed_; }

 private:
  void write(std::size_t request);
  void write_json(std::size_t request);
  void write_text(std::size_t request);

  Job& job_;
  Output& out_;
  AnswerFormat format_;
  std::vector<std::string> ids_;
  ProgressBar* bar_;
  std::vector<bool> ended_;
  std::size_t next_ = 0;  // to write
  std::size_t failed_ = 0;
};

/// Writes the one answer of a single request as it comes.
class StreamWriter final : public JobListener {
 public:
  explicit StreamWriter(Output& out) : out_(out) {}
  bool on_delta(std::size_t request, const ChoiceDelta& delta) override;
  /// Ends the last line if it has not ended.
  void end_line();

 private:
  Output& out_;
  bool in_line_ = false;
};

}  // namespace spillway::cli
