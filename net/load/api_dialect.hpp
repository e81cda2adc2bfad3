// SPDX-License-Identifier: Apache-2.0
#pragma once

// The dialects of the OpenAI API that a load run speaks: how a request is written, and what an event of the
// answer says. No sockets.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "net/load/timeline.hpp"
#include "net/load/workload.hpp"
#include "runtime/result.hpp"

namespace spillway::net::load {

enum class Dialect : std::uint8_t { kCompletions, kChat, kResponses, kResponsesSocket };

/// vLLM's names of backends: openai or vllm, openai-chat, openai-responses; ours: openai-responses-ws.
/// Errors: kInvalidArgument, with the names there are.
[[nodiscard]] Result<Dialect> dialect_of(std::string_view backend);
[[nodiscard]] std::string_view default_endpoint(Dialect dialect) noexcept;

/// Fields beside the prompt that every request of a run carries.
struct BodyOptions {
  std::string model;
  bool ignore_eos = false;
  std::string extra;  // more members, as JSON without braces, or empty
};

/// The body of a request as JSON, beginning with "{". kUnsupported for token ids in a dialect that takes text
/// only.
[[nodiscard]] Result<std::string> request_body(Dialect dialect, const LoadRequest& request,
                                               const BodyOptions& options);

/// A JSON object's members without its braces, for BodyOptions::extra. Errors: kInvalidArgument.
[[nodiscard]] Result<std::string> json_members(std::string_view object);

/// Collects one answer, event by event, into a timeline.
class AnswerReader {
 public:
  AnswerReader(Dialect dialect, Timeline& line, bool keep_text)
      : dialect_(dialect), line_(&line), keep_text_(keep_text) {}

  /// One event (the data of an SSE event or a WebSocket message) that arrived at `now_ns`. An error ends the
  /// answer: the server reported one, or the event is not what the API says.
  [[nodiscard]] Result<void> take(std::string_view event, std::int64_t now_ns);
  /// The server has said that the answer is whole.
  [[nodiscard]] bool is_complete() const noexcept { return complete_; }
  /// Nothing more can come: [DONE], or the terminal event of a response.
  [[nodiscard]] bool is_ended() const noexcept { return ended_; }
  /// Call once, when the stream has ended. Fills the counts; an answer that is not whole is an error.
  [[nodiscard]] Result<void> finish();

 private:
  void piece(std::string_view text, std::int64_t now_ns);

  Dialect dialect_;
  Timeline* line_;
  bool keep_text_, complete_ = false, ended_ = false;
};

/// What an error body says, shortened: "HTTP 429: The queue is full."
[[nodiscard]] std::string http_error_text(int status, std::string_view body);
/// The lane that a WebSocket event belongs to; "" is the default one. Cheap: it does not parse the event.
[[nodiscard]] std::string_view stream_id_of(std::string_view event) noexcept;

}  // namespace spillway::net::load
