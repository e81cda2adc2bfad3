// SPDX-License-Identifier: Apache-2.0
// /v1/live: what the page draws. One JSON object a quarter of a second:
//   {"type":"live","running","waiting","steps","prompt_tokens","generated_tokens","preemptions","requests_open",
//    "blocks":{"total","held","states":"..."},"ttft":[..],"itl":[..],"bounds_s":[..],"prefix":{"queries","hits"}}
// `states` has one character a block, in runs of COUNT CHARACTER: f free, c cached, h held, s shared ("12f3h").

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>

#include "net/endpoints.hpp"
#include "net/json_text.hpp"
#include "net/live_json.hpp"
#include "net/websocket_session.hpp"

namespace spillway::net {
namespace {

struct LiveState {
  explicit LiveState(const asio::any_io_executor& executor) : bell(executor) {}
  Bell bell;
  std::string text;
  bool closed = false, waiting = false;
};

asio::awaitable<void> read_until_closed(WebSocketSession& socket, std::shared_ptr<LiveState> state, Bell& ended) {
  while (auto message = co_await socket.read()) {
  }
  state->closed = true;
  state->bell.ring();
  ended.ring();
}

}  // namespace

asio::awaitable<void> serve_live(WebSocketSession& socket, Service& service) {
  const auto state = std::make_shared<LiveState>(socket.executor());
  Bell reader_ended(socket.executor());
  asio::co_spawn(socket.executor(), read_until_closed(socket, state, reader_ended), asio::detached);
  bool going = true;
  while (!state->closed && going && !service.draining()) {
    if (!state->waiting) {
      state->waiting = true;
      service.port().snapshot(true, [state, &metrics = service.metrics(),
                                     open = service.running()](const actors::EngineSnapshot& snapshot) {
        state->waiting = false;
        state->text = live_json(snapshot, metrics, open);
        state->bell.ring();
      });
    }
    co_await state->bell.wait(std::chrono::seconds(2));
    if (state->text.empty() || state->closed) continue;
    const std::string text = std::exchange(state->text, {});
    going = co_await socket.write(text);
    asio::steady_timer pause(socket.executor(), std::chrono::milliseconds(250));
    boost::system::error_code ignored;
    co_await pause.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
  }
  if (!state->closed && going) co_await socket.close(CloseCode::kGoingAway, "the server is shutting down");
  if (!state->closed) socket.cut();
  while (!state->closed) co_await reader_ended.wait();
}

}  // namespace spillway::net
