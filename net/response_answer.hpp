// SPDX-License-Identifier: Apache-2.0
#pragma once

// ResponseAnswer: the events of one response of the Responses API, in their order and with their sequence numbers;
// the same objects for SSE and WebSocket. Pure: fed with the engine's events, gives text.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "actors/messages.hpp"
#include "model/tokenizer.hpp"
#include "net/api_error.hpp"

namespace spillway::net {

struct ResponseEvent {
  std::string_view type;  // "response.created"
  std::string json;       // the whole object, type included
};

struct ResponseAnswerConfig {
  std::string id, item_id, model;
  std::string stream_id;  // WebSocket lane; empty: none, and no key in the events
  std::int64_t created_s = 0;
  std::string previous_response_id;  // empty: null
  std::string instructions;          // empty: null
  std::string metadata = "{}";
  model::SamplingParams params;
  bool max_tokens_given = false;
  bool logprobs = false;
  const model::Tokenizer* tokenizer = nullptr;
};

class ResponseAnswer {
 public:
  explicit ResponseAnswer(ResponseAnswerConfig config) : config_(std::move(config)) {}

  /// created, in_progress.
  void start(std::vector<ResponseEvent>& out);
  /// A delta; before the first one the item and its part are added.
  void on_delta(const actors::ChoiceDelta& delta, std::vector<ResponseEvent>& out);
  /// The *.done events and completed or incomplete.
  void on_finished(actors::FinishReason reason, const actors::Usage& usage, std::int64_t now_s,
                   std::vector<ResponseEvent>& out);
  /// failed. The message is the client's to read.
  void on_failed(const ApiError& error, const actors::Usage& usage, std::vector<ResponseEvent>& out);
  /// generate:false: completed without output.
  void on_prepared(const actors::Usage& usage, std::int64_t now_s, std::vector<ResponseEvent>& out);

  [[nodiscard]] const std::string& id() const noexcept { return config_.id; }
  [[nodiscard]] const std::string& stream_id() const noexcept { return config_.stream_id; }
  [[nodiscard]] const std::string& text() const noexcept { return text_; }
  /// The response object as it is now: a JSON answer, or the last event's.
  [[nodiscard]] std::string object() const;

 private:
  struct End {
    std::string_view status = "in_progress";
    std::string_view incomplete_reason;  // empty: null
    std::int64_t completed_s = 0;        // 0: none
    std::string error;                   // JSON, empty: null
    bool has_usage = false;
    actors::Usage usage;
  };

  void open_item(std::vector<ResponseEvent>& out);
  void close_item(std::string_view status, std::vector<ResponseEvent>& out);
  [[nodiscard]] std::string begin(std::string_view type);
  void emit(std::string_view type, std::string body, std::vector<ResponseEvent>& out);
  void append_item(std::string& out, std::string_view status, bool with_content) const;
  void append_part(std::string& out, bool with_logprobs) const;

  ResponseAnswerConfig config_;
  std::uint64_t sequence_ = 0;
  bool item_open_ = false;
  std::string text_;
  std::string logprobs_;  // entries so far
  End end_;
};

}  // namespace spillway::net
