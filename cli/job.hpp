// SPDX-License-Identifier: Apache-2.0
#pragma once

// Runs requests on an engine as one continuously batched job and collects their answers. The coroutine runs
// on the engine's session worker and writes to the Job; the main thread meanwhile waits for its end and for
// signals.

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "actors/engine.hpp"

namespace spillway::cli {

struct ChoiceAnswer {
  std::string text;
  std::vector<TokenInfo> tokens;
  FinishReason reason = FinishReason::kStop;
  Usage usage;
  std::optional<Error> error;  // it failed after what `tokens` holds
};

struct Answer {
  std::optional<Error> refused;  // it never ran
  std::vector<ChoiceAnswer> choices;
  runtime::TimePoint submitted{}, first_token{}, end{};  // zero: has not happened
  double first_token_process_s = 0;                      // the same, since the process was started
};

/// Hears of events as they come, on the session's worker. Returning false asks for an early end.
class JobListener {
 public:
  virtual ~JobListener() = default;
  virtual bool on_delta(std::size_t /*request*/, const ChoiceDelta& /*delta*/) { return true; }
  virtual bool on_choice_end(std::size_t /*request*/, std::uint32_t /*choice*/) { return true; }
  /// The request's answer is whole, refused or failed.
  virtual bool on_end(std::size_t /*request*/) { return true; }
};

struct Job {
  std::vector<GenerationRequest> requests;
  std::vector<Answer> answers;  // of requests, in order
  JobListener* listener = nullptr;
};

/// Runs the job to its end. The first Ctrl-C cancels what is open, and the answers hold what there is.
void run_job(Engine& engine, Job& job);

}  // namespace spillway::cli
