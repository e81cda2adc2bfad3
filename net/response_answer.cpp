// SPDX-License-Identifier: Apache-2.0
#include "net/response_answer.hpp"

#include "net/json_text.hpp"
#include "net/token_json.hpp"

namespace spillway::net {

std::string ResponseAnswer::begin(std::string_view type) {
  std::string out;
  out.reserve(256);
  out += R"({"type":")";
  out += type;
  out += R"(","sequence_number":)";
  append_number(out, static_cast<std::int64_t>(sequence_++));
  if (!config_.stream_id.empty()) {
    out += R"(,"stream_id":")";
    out += config_.stream_id;  // its characters need no escapes
    out += '"';
  }
  return out;
}

void ResponseAnswer::emit(std::string_view type, std::string body, std::vector<ResponseEvent>& out) {
  body += '}';
  out.push_back({type, std::move(body)});
}

std::string ResponseAnswer::object() const {
  const model::SamplingParams& params = config_.params;
  std::string out = R"({"id":)";
  append_quoted(out, config_.id);
  out += R"(,"object":"response","created_at":)" + std::to_string(config_.created_s);
  if (end_.completed_s != 0) out += R"(,"completed_at":)" + std::to_string(end_.completed_s);
  out += R"(,"status":")" + std::string(end_.status) + R"(","error":)";
  out += end_.error.empty() ? "null" : end_.error;
  out += R"(,"incomplete_details":)";
  if (end_.incomplete_reason.empty()) {
    out += "null";
  } else {
    out += R"({"reason":")" + std::string(end_.incomplete_reason) + R"("})";
  }
  out += R"(,"instructions":)";
  append_quoted_or_null(out, config_.instructions);
  out += R"(,"max_output_tokens":)" + (config_.max_tokens_given ? std::to_string(params.max_tokens) : "null");
  out += R"(,"metadata":)" + config_.metadata + R"(,"model":)";
  append_quoted(out, config_.model);
  out += R"(,"output":[)";
  if (item_open_ && end_.status != "in_progress")
    append_item(out, end_.status == "completed" ? "completed" : "incomplete", true);
  out += R"(],"parallel_tool_calls":true,"previous_response_id":)";
  append_quoted_or_null(out, config_.previous_response_id);
  out += R"(,"temperature":)";
  append_number(out, params.temperature);
  out += R"(,"text":{"format":{"type":"text"}},"tool_choice":"auto","tools":[],"top_p":)";
  append_number(out, params.top_p);
  out += R"(,"truncation":"disabled","usage":)";
  if (end_.has_usage) {
    const actors::Usage& usage = end_.usage;
    out += R"({"input_tokens":)" + std::to_string(usage.prompt_tokens) +
           R"(,"input_tokens_details":{"cached_tokens":)" + std::to_string(usage.cached_tokens) +
           R"(,"cache_write_tokens":)" + std::to_string(usage.prompt_tokens - usage.cached_tokens) +
           R"(},"output_tokens":)" + std::to_string(usage.completion_tokens) +
           R"(,"output_tokens_details":{"reasoning_tokens":0},"total_tokens":)" +
           std::to_string(usage.prompt_tokens + usage.completion_tokens);
    append_sparse_usage(out, usage);
    out += '}';
  } else {
    out += "null";
  }
  return out + "}";
}

void ResponseAnswer::append_part(std::string& out, bool with_logprobs) const {
  out += R"({"type":"output_text","text":)";
  append_quoted(out, text_);
  out += R"(,"annotations":[],"logprobs":[)";
  if (with_logprobs) out += logprobs_;
  out += "]}";
}

void ResponseAnswer::append_item(std::string& out, std::string_view status, bool with_content) const {
  out += R"({"id":)";
  append_quoted(out, config_.item_id);
  out += R"(,"type":"message","role":"assistant","status":")" + std::string(status) + R"(","content":[)";
  if (with_content) append_part(out, true);
  out += "]}";
}

void ResponseAnswer::start(std::vector<ResponseEvent>& out) {
  for (const std::string_view type : {"response.created", "response.in_progress"}) {
    std::string body = begin(type);
    body += R"(,"response":)" + object();
    emit(type, std::move(body), out);
  }
}

void ResponseAnswer::open_item(std::vector<ResponseEvent>& out) {
  if (std::exchange(item_open_, true)) return;
  std::string added = begin("response.output_item.added");
  added += R"(,"output_index":0,"item":)";
  append_item(added, "in_progress", false);
  emit("response.output_item.added", std::move(added), out);
  std::string part = begin("response.content_part.added");
  part += R"(,"item_id":)" + json_string(config_.item_id) +
          R"(,"output_index":0,"content_index":0,"part":{"type":"output_text","text":"","annotations":[]})";
  emit("response.content_part.added", std::move(part), out);
}

void ResponseAnswer::on_delta(const actors::ChoiceDelta& delta, std::vector<ResponseEvent>& out) {
  open_item(out);
  text_ += delta.text;
  if (delta.text.empty() && !config_.logprobs) return;  // inside a character
  std::string body = begin("response.output_text.delta");
  body += R"(,"item_id":")";
  body += config_.item_id;
  body += R"(","output_index":0,"content_index":0,"delta":)";
  append_quoted(body, delta.text);
  body += R"(,"logprobs":[)";
  if (config_.logprobs) {
    std::string entries;
    append_logprob_entries(entries, config_.tokenizer, delta.tokens);
    body += entries;
    if (!logprobs_.empty() && !entries.empty()) logprobs_ += ',';
    logprobs_ += entries;
  }
  body += ']';
  emit("response.output_text.delta", std::move(body), out);
}

void ResponseAnswer::close_item(std::string_view status, std::vector<ResponseEvent>& out) {
  open_item(out);
  const std::string place = R"(,"item_id":)" + json_string(config_.item_id) + R"(,"output_index":0,"content_index":0)";
  std::string text = begin("response.output_text.done");
  text += place + R"(,"text":)";
  append_quoted(text, text_);
  text += R"(,"logprobs":[)" + logprobs_ + "]";
  emit("response.output_text.done", std::move(text), out);
  std::string part = begin("response.content_part.done");
  part += place + R"(,"part":)";
  append_part(part, true);
  emit("response.content_part.done", std::move(part), out);
  std::string item = begin("response.output_item.done");
  item += R"(,"output_index":0,"item":)";
  append_item(item, status, true);
  emit("response.output_item.done", std::move(item), out);
}

void ResponseAnswer::on_finished(actors::FinishReason reason, const actors::Usage& usage, std::int64_t now_s,
                                 std::vector<ResponseEvent>& out) {
  const bool whole = reason == actors::FinishReason::kStop;
  close_item(whole ? "completed" : "incomplete", out);
  end_.has_usage = true;
  end_.usage = usage;
  end_.status = whole ? "completed" : reason == actors::FinishReason::kLength ? "incomplete" : "cancelled";
  if (reason == actors::FinishReason::kLength) end_.incomplete_reason = "max_output_tokens";
  if (whole) end_.completed_s = now_s;
  const std::string_view type = whole ? "response.completed" : "response.incomplete";
  std::string body = begin(type);
  body += R"(,"response":)" + object();
  emit(type, std::move(body), out);
}

void ResponseAnswer::on_prepared(const actors::Usage& usage, std::int64_t now_s, std::vector<ResponseEvent>& out) {
  end_.has_usage = true;
  end_.usage = usage;
  end_.status = "completed";
  end_.completed_s = now_s;
  std::string body = begin("response.completed");
  body += R"(,"response":)" + object();
  emit("response.completed", std::move(body), out);
}

void ResponseAnswer::on_failed(const ApiError& error, const actors::Usage& usage, std::vector<ResponseEvent>& out) {
  end_.status = "failed";
  end_.has_usage = usage.prompt_tokens != 0;
  end_.usage = usage;
  // A closed list: what is not the client's fault is server_error.
  end_.error = R"({"code":")" + std::string(error.status == 429 ? "rate_limit_exceeded"
                                            : error.status < 500 && error.status != 408 ? "invalid_prompt"
                                                                                        : "server_error") +
               R"(","message":)" + json_string(error.message) + "}";
  std::string body = begin("response.failed");
  body += R"(,"response":)" + object();
  emit("response.failed", std::move(body), out);
}

}  // namespace spillway::net
