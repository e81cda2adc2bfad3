// SPDX-License-Identifier: Apache-2.0
// POST /v1/responses.

#include "net/endpoints.hpp"
#include "net/response_run.hpp"

namespace spillway::net {

asio::awaitable<void> answer_response(HttpExchange& exchange, Service& service) {
  auto parsed = parse_response_request(exchange.request.body, service.rules());
  if (auto* error = std::get_if<ApiError>(&parsed)) {
    co_await exchange.fail(std::move(*error));
    co_return;
  }
  exchange.request.body = {};
  ResponseRequest request = std::get<ResponseRequest>(std::move(parsed));
  request.stream_id.clear();
  const bool stream = request.stream;
  ResponseRun run(service, std::move(request), exchange.request.principal, 0);
  std::optional<ApiError> wrong = run.start([&exchange] { exchange.bell().ring(); });
  std::vector<ResponseEvent> events;
  std::string out;
  bool begun = false;
  while (!wrong && !run.ended()) {
    run.pump(events);
    if (run.refused()) wrong = run.refused();
    if (!stream && run.failed()) wrong = run.failed();
    if (wrong) break;
    if (stream && !events.empty()) {
      if (!std::exchange(begun, true)) {
        const bool going = co_await exchange.begin_stream("text/event-stream");
        if (!going) co_return;
      }
      out.clear();
      for (const ResponseEvent& event : events) {
        out += "event: ";
        out += event.type;
        out += "\ndata: ";
        out += event.json;
        out += "\n\n";
      }
      events.clear();
      const bool written = co_await exchange.write(out);
      if (!written) co_return;
      continue;
    }
    events.clear();
    if (run.ended()) break;
    co_await exchange.bell().wait();
    if (exchange.gone()) co_return;
  }
  if (wrong) {
    co_await exchange.fail(*std::move(wrong));
  } else if (stream) {
    co_await exchange.end_stream();
  } else {
    co_await exchange.json(run.answer().object());
  }
}

}  // namespace spillway::net
