// SPDX-License-Identifier: Apache-2.0
#include "cli/job.hpp"

#include <unordered_map>
#include <utility>

#include "cli/interrupt.hpp"
#include "cli/stats.hpp"

namespace spillway::cli {
namespace {

/// Requests open at once. The engine queues far more; this bounds what a huge file keeps in memory.
constexpr std::size_t kOpenMax = 4096;

class JobRunner {
 public:
  JobRunner(Session& session, Job& job) : session_(session), job_(job) {}

  Task<void> run() {
    while (next_ < job_.requests.size() || !open_.empty()) {
      if (next_ < job_.requests.size() && open_.size() < kOpenMax && !full_) {
        co_await submit(next_);
        continue;
      }
      std::optional<std::pair<StreamTag, StreamEvent>> event = co_await session_.next_event();
      if (!event) break;  // the engine has ended; finish() says so for each
      full_ = false;
      handle(event->first, event->second);
    }
    finish();
  }

 private:
  struct Open {
    std::size_t request;
    Stream stream;
  };

  Task<void> submit(std::size_t request) {
    Answer& answer = job_.answers[request];
    answer.submitted = session_.now();
    if (ending_) {
      refuse(request, {Errc::kCancelled, "stopped before it began"});
      co_return;
    }
    GenerationRequest copy = job_.requests[request];
    const auto choices = static_cast<std::size_t>(copy.params.n);
    Result<Stream> stream = co_await session_.generate(std::move(copy));
    if (!stream && stream.error().code == Errc::kQueueFull && !open_.empty()) {
      full_ = true;  // try again once something has ended
      co_return;
    }
    if (!stream) {
      refuse(request,
             session_.stopped() ? Error{Errc::kCancelled, "stopped before it began"} : stream.error());
      co_return;
    }
    ++next_;
    answer.choices.resize(choices);
    const StreamTag tag = stream->tag();
    open_.emplace(tag, Open{request, std::move(*stream)});
  }

  void refuse(std::size_t request, Error error) {
    ++next_;
    Answer& answer = job_.answers[request];
    answer.refused = std::move(error);
    end(request);
  }

  void handle(StreamTag tag, StreamEvent& event) {
    const auto open = open_.find(tag);
    if (open == open_.end()) return;
    const std::size_t request = open->second.request;
    Answer& answer = job_.answers[request];
    if (auto* delta = std::get_if<ChoiceDelta>(&event)) {
      if (!delta->tokens.empty() && answer.first_token == runtime::TimePoint{}) {
        answer.first_token = session_.now();
        answer.first_token_process_s = seconds_since_process_start();
      }
      ChoiceAnswer& choice = answer.choices[delta->choice];
      choice.text += delta->text;
      // Told before the tokens are moved: the listener sees the delta whole.
      tell([&](JobListener& listener) { return listener.on_delta(request, *delta); });
      for (TokenInfo& token : delta->tokens) choice.tokens.push_back(std::move(token));
    } else if (auto* finished = std::get_if<ChoiceFinished>(&event)) {
      ChoiceAnswer& choice = answer.choices[finished->choice];
      choice.reason = finished->reason;
      choice.usage = finished->usage;
      tell([&](JobListener& listener) { return listener.on_choice_end(request, finished->choice); });
    } else if (auto* failed = std::get_if<ChoiceFailed>(&event)) {
      ChoiceAnswer& choice = answer.choices[failed->choice];
      choice.error = std::move(failed->error);
      choice.usage = failed->usage;
      tell([&](JobListener& listener) { return listener.on_choice_end(request, failed->choice); });
    } else {
      open_.erase(open);
      end(request);
    }
  }

  void end(std::size_t request) {
    job_.answers[request].end = session_.now();
    tell([&](JobListener& listener) { return listener.on_end(request); });
  }

  /// Requests that the engine left without an end.
  void finish() {
    const Error lost{Errc::kClosed, "the engine ended before the answer was whole"};
    for (auto& [tag, open] : open_) {
      for (ChoiceAnswer& choice : job_.answers[open.request].choices) {
        if (!choice.error) choice.error = lost;
      }
      end(open.request);
    }
    open_.clear();
    while (next_ < job_.requests.size()) refuse(next_, lost);
  }

  template <class Call>
  void tell(Call call) {
    if (job_.listener == nullptr || call(*job_.listener) || ending_) return;
    ending_ = true;
    for (auto& [tag, open] : open_) open.stream.cancel();
  }

  Session& session_;
  Job& job_;
  std::unordered_map<StreamTag, Open> open_;
  std::size_t next_ = 0;  // to submit
  bool full_ = false;     // the engine takes no more for now
  bool ending_ = false;   // the listener wants an early end
};

Task<void> run_requests(Session& session, Job* job) {
  JobRunner runner(session, *job);
  co_await runner.run();
}

}  // namespace

void run_job(Engine& engine, Job& job) {
  job.answers.clear();
  job.answers.resize(job.requests.size());
  const SessionHandle handle = engine.start(&run_requests, &job);
  bool stopped = false;
  // A signal cannot wake a future, so the wait is cut into pieces short enough for a person's patience.
  while (!handle.wait_for(std::chrono::milliseconds(20))) {
    if (interrupt::signal() == 0 || stopped) continue;
    handle.stop();
    stopped = true;
  }
}

}  // namespace spillway::cli
