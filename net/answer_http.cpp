// SPDX-License-Identifier: Apache-2.0
// The table of paths, and the endpoints that need no file of their own.

#include "net/endpoints.hpp"
#include "net/json_text.hpp"
#include "net/page.hpp"

namespace spillway::net {
namespace {

asio::awaitable<void> models(HttpExchange& exchange, Service& service) {
  std::string body = R"({"object":"list","data":[)";
  bool first = true;
  for (const std::string& name : service.options().served_model_names) {
    if (!std::exchange(first, false)) body += ',';
    body += R"({"id":)" + json_string(name) + R"(,"object":"model","created":)" + std::to_string(service.now_s()) +
            R"(,"owned_by":"spillway")";
    if (!service.loading()) body += R"(,"max_model_len":)" + std::to_string(service.engine().max_model_len());
    body += '}';
  }
  co_await exchange.json(body + "]}");
}

asio::awaitable<void> health(HttpExchange& exchange, Service& service) {
  const char* state = service.loading() ? "loading" : service.draining() ? "draining" : "ok";
  const bool lost = !service.loading() && !service.engine().router().alive();
  const int code = service.ready() && !lost ? 200 : 503;
  const std::string body = std::string(R"({"status":")") + (lost ? "lost" : state) + "\"}";
  co_await exchange.respond(code, "application/json", body);
}

asio::awaitable<void> metrics(HttpExchange& exchange, Service& service) {
  std::optional<actors::EngineSnapshot> now;
  if (!service.loading()) {
    // Owned by whoever is last: the answer may come after the wait was given up.
    auto slot = std::make_shared<std::optional<actors::EngineSnapshot>>();
    const auto ring = std::make_shared<Bell*>(&exchange.bell());
    service.port().snapshot(false, [slot, ring](const actors::EngineSnapshot& snapshot) {
      *slot = snapshot;
      if (*ring != nullptr) (*ring)->ring();
    });
    for (int tries = 0; tries < 20 && !*slot && !exchange.gone(); ++tries)
      co_await exchange.bell().wait(std::chrono::milliseconds(100));
    *ring = nullptr;
    now = *std::move(slot);
  }
  const std::string text = service.metrics().text(now ? &*now : nullptr);
  co_await exchange.respond(200, "text/plain; version=0.0.4; charset=utf-8", text);
}

asio::awaitable<void> tokenize(HttpExchange& exchange, Service& service) {
  auto parsed = parse_tokenize_request(exchange.request.body, service.rules());
  std::optional<ApiError> wrong;
  if (auto* error = std::get_if<ApiError>(&parsed)) wrong = std::move(*error);
  if (!wrong) wrong = service.refusal(std::get<TokenizeRequest>(parsed).model);
  std::string body;
  if (!wrong) {
    const auto& request = std::get<TokenizeRequest>(parsed);
    const auto tokens = service.encode(request.prompt, request.add_special_tokens);
    if (!tokens) {
      wrong = to_api_error(tokens.error());
    } else {
      body = R"({"count":)" + std::to_string(tokens->size()) + R"(,"max_model_len":)" +
             std::to_string(service.engine().max_model_len()) + R"(,"tokens":[)";
      for (std::size_t i = 0; i < tokens->size(); ++i) body += (i == 0 ? "" : ",") + std::to_string((*tokens)[i]);
      body += R"(],"token_strs":null})";
    }
  }
  if (wrong) {
    co_await exchange.fail(*std::move(wrong));
  } else {
    co_await exchange.json(std::move(body));
  }
}

asio::awaitable<void> detokenize(HttpExchange& exchange, Service& service) {
  auto parsed = parse_detokenize_request(exchange.request.body);
  std::optional<ApiError> wrong;
  if (auto* error = std::get_if<ApiError>(&parsed)) wrong = std::move(*error);
  if (!wrong) wrong = service.refusal(std::get<DetokenizeRequest>(parsed).model);
  if (!wrong && service.engine().tokenizer() == nullptr)
    wrong = to_api_error({Errc::kUnsupported, "the model brings no tokenizer"});
  if (wrong) {
    co_await exchange.fail(*std::move(wrong));
    co_return;
  }
  const auto& tokens = std::get<DetokenizeRequest>(parsed).tokens;
  const std::string body = R"({"prompt":)" + json_string(service.engine().tokenizer()->decode(tokens, false)) + "}";
  co_await exchange.json(body);
}

asio::awaitable<void> cancel(HttpExchange& exchange, Service& service, std::string id) {
  if (service.cancel(id, exchange.request.principal)) {
    const std::string body = R"({"id":)" + json_string(id) + R"(,"cancelled":true})";
    co_await exchange.json(body);
  } else {
    ApiError missing = invalid_request("No request with id '" + id.substr(0, 128) + "' is running.", "id", "not_found");
    missing.status = 404;
    co_await exchange.fail(std::move(missing));
  }
}

std::string cancel_id(std::string_view path) {
  constexpr std::string_view kBefore = "/v1/requests/", kAfter = "/cancel";
  if (!path.starts_with(kBefore) || !path.ends_with(kAfter) || path.size() <= kBefore.size() + kAfter.size()) return {};
  return std::string(path.substr(kBefore.size(), path.size() - kBefore.size() - kAfter.size()));
}

}  // namespace

asio::awaitable<void> answer_http(HttpExchange& exchange, Service& service) {
  const std::string& path = exchange.request.path;
  const bool get = exchange.request.method == "GET", post = exchange.request.method == "POST";
  bool known = true;
  if (path == "/health" || path == "/ping") {
    if (get || post) co_return co_await health(exchange, service);
  } else if (path == "/version") {
    const std::string body = R"({"version":)" + json_string(service.options().version) + "}";
    if (get) co_return co_await exchange.json(body);
  } else if (path == "/v1/models") {
    if (get) co_return co_await models(exchange, service);
  } else if (path == "/metrics") {
    if (get) co_return co_await metrics(exchange, service);
  } else if (const PageFile* file = find_page_file(path)) {
    if (get) co_return co_await exchange.respond(200, file->content_type, file->content, kPageHeaders);
  } else if (path == "/v1/chat/completions") {
    if (post) co_return co_await answer_text(exchange, service, TextApi::kChat);
  } else if (path == "/v1/completions") {
    if (post) co_return co_await answer_text(exchange, service, TextApi::kCompletion);
  } else if (path == "/v1/responses") {
    if (post) co_return co_await answer_response(exchange, service);
  } else if (path == "/tokenize") {
    if (post) co_return co_await tokenize(exchange, service);
  } else if (path == "/detokenize") {
    if (post) co_return co_await detokenize(exchange, service);
  } else if (std::string id = cancel_id(path); !id.empty()) {
    if (post) co_return co_await cancel(exchange, service, std::move(id));
  } else {
    known = false;
  }
  ApiError error = invalid_request(known ? "This path does not know the method " + exchange.request.method.substr(0, 32) + "."
                                         : "There is nothing at this path.",
                                   {}, known ? "method_not_allowed" : "not_found");
  error.status = known ? 405 : 404;
  co_await exchange.fail(std::move(error));
}

}  // namespace spillway::net
