// SPDX-License-Identifier: Apache-2.0
#pragma once

// ResponseRun: one response of the Responses API from its request to its last event, whatever carries the events.

#include <memory>
#include <optional>
#include <vector>

#include "net/response_answer.hpp"
#include "net/service.hpp"

namespace spillway::net {

class ResponseRun {
 public:
  /// `connection`: where a response with store:false may be continued; 0 (HTTP): nowhere.
  ResponseRun(Service& service, ResponseRequest request, std::uint32_t principal, std::uint64_t connection);

  ResponseRun(const ResponseRun&) = delete;
  ResponseRun& operator=(const ResponseRun&) = delete;
  ~ResponseRun();

  /// Finds the conversation, encodes and submits. An error: it never ran, and there are no events.
  [[nodiscard]] std::optional<ApiError> start(std::function<void()> on_event);
  /// What has happened since. After `ended()` there is nothing more.
  void pump(std::vector<ResponseEvent>& events);
  [[nodiscard]] bool ended() const noexcept { return ended_; }
  /// Refused by the engine before response.created: an error instead of events.
  [[nodiscard]] const std::optional<ApiError>& refused() const noexcept { return refused_; }
  /// Failed after it.
  [[nodiscard]] const std::optional<ApiError>& failed() const noexcept { return failed_; }
  void cancel() {
    if (generation_) generation_->cancel();
  }

  [[nodiscard]] const ResponseAnswer& answer() const noexcept { return answer_; }
  [[nodiscard]] const std::string& id() const noexcept { return answer_.id(); }

 private:
  void on_end(FinishReason reason, const Usage& usage, std::vector<ResponseEvent>& events);

  Service& service_;
  ResponseRequest request_;
  std::uint32_t principal_;
  std::uint64_t connection_;
  ResponseAnswer answer_;
  std::vector<model::Message> messages_;  // the conversation without instructions
  std::optional<Enlisted> enlisted_;
  std::optional<ChoiceClock> clock_;
  std::unique_ptr<Generation> generation_;
  std::optional<ApiError> refused_, failed_;
  bool ended_ = false;
};

}  // namespace spillway::net
