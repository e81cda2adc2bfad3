// SPDX-License-Identifier: Apache-2.0
// /v1/responses as a WebSocket: lanes, each with its responses one after another; lanes run beside each other. One
// coroutine reads events, another one writes them; while a write waits for the client, no response is asked for more,
// so credits run out and the router holds what the client does not take.

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <deque>
#include <map>

#include "net/endpoints.hpp"
#include "net/response_run.hpp"
#include "net/websocket_session.hpp"

namespace spillway::net {
namespace {

class ResponsesSocket {
 public:
  ResponsesSocket(WebSocketSession& socket, Service& service, std::uint32_t principal)
      : socket_(socket),
        service_(service),
        principal_(principal),
        connection_(service.new_connection()),
        bell_(socket.executor()),
        written_(socket.executor()) {}
  ResponsesSocket(const ResponsesSocket&) = delete;
  ResponsesSocket& operator=(const ResponsesSocket&) = delete;
  ~ResponsesSocket() { service_.conversations().forget_connection(connection_); }

  asio::awaitable<void> run() {
    asio::co_spawn(socket_.executor(), write_all(), asio::detached);
    while (auto message = co_await socket_.read()) {
      on_frame(message->data);
      bell_.ring();
    }
    closed_ = true;
    runs_.clear();  // cancels what is open
    bell_.ring();
    while (!writer_done_) co_await written_.wait();
  }

 private:
  struct Lane {
    std::deque<std::string> waiting;  // creates, as they came
    bool busy = false;
  };

  void say(std::string text) { out_.push_back(std::move(text)); }

  void on_frame(const std::string& text) {
    // What a client may pile up without reading is bounded, whatever it sends.
    if (out_.size() > kOutMax) return cut();
    ClientEvent event = parse_client_event(text);
    if (event.wrong) return say(error_event(*event.wrong, event.wrong->param == "stream_id" ? "" : event.stream_id));
    if (event.type == "response.cancel") return on_cancel(event);
    if (event.type != "response.create") {
      const std::string name = event.type.substr(0, 64);
      return say(error_event(invalid_request("Events of type '" + name + "' are not supported; send response.create or " +
                                                 "response.cancel.",
                                             "type", "unsupported_event"),
                             event.stream_id));
    }
    Lane* lane = find_lane(event.stream_id);
    if (lane == nullptr) {
      return say(error_event(
          invalid_request("This connection has reached its maximum number of distinct stream IDs (" +
                              std::to_string(service_.options().lanes_per_connection_max) + ").",
                          "stream_id", "websocket_stream_limit_reached"),
          event.stream_id));
    }
    if (waiting_ >= kWaitingMax) return say(error_event(queue_full(), event.stream_id));
    lane->waiting.push_back(text);
    ++waiting_;
    start_waiting();
  }

  Lane* find_lane(const std::string& id) {
    const auto found = lanes_.find(id);
    if (found != lanes_.end()) return &found->second;
    const std::size_t named = lanes_.size() - lanes_.count("");
    if (!id.empty() && named >= service_.options().lanes_per_connection_max) return nullptr;
    return &lanes_[id];
  }

  void on_cancel(const ClientEvent& event) {
    for (const auto& run : runs_) {
      if (run->id() == event.response_id || (event.response_id.empty() && run->answer().stream_id() == event.stream_id))
        return run->cancel();
    }
    say(error_event(invalid_request("No response with id '" + event.response_id.substr(0, 128) + "' is in progress.",
                                    "response_id", "response_not_found"),
                    event.stream_id));
  }

  void start_waiting() {
    for (auto& [id, lane] : lanes_) {
      while (!lane.busy && !lane.waiting.empty() && runs_.size() < service_.options().streams_per_connection_max) {
        const std::string text = std::move(lane.waiting.front());
        lane.waiting.pop_front();
        --waiting_;
        lane.busy = start(text, id);
      }
    }
  }

  /// False: it ended at once, with an error.
  bool start(const std::string& text, const std::string& stream_id) {
    auto parsed = parse_response_request(text, service_.rules());
    if (auto* error = std::get_if<ApiError>(&parsed)) {
      say(error_event(*error, stream_id));
      return false;
    }
    auto run = std::make_unique<ResponseRun>(service_, std::get<ResponseRequest>(std::move(parsed)), principal_,
                                             connection_);
    if (auto wrong = run->start([this] { bell_.ring(); })) {
      say(error_event(*wrong, stream_id));
      return false;
    }
    runs_.push_back(std::move(run));
    return true;
  }

  /// What has happened in all lanes, as text to send.
  void pump() {
    bool ended = false;
    for (auto& run : runs_) {
      events_.clear();
      run->pump(events_);
      for (ResponseEvent& event : events_) say(std::move(event.json));
      if (!run->ended()) continue;
      if (run->refused()) say(error_event(*run->refused(), run->answer().stream_id()));
      lanes_[run->answer().stream_id()].busy = false;
      ended = true;
    }
    if (!ended) return;
    std::erase_if(runs_, [](const auto& run) { return run->ended(); });
    start_waiting();
  }

  asio::awaitable<void> write_all() {
    const auto lifetime = service_.options().websocket_lifetime;
    const auto born = service_.engine().now();
    bool going = true;
    while (!closed_ && going) {
      if (out_.empty()) pump();
      if (out_.empty()) {
        if (service_.draining() && runs_.empty() && waiting_ == 0) {
          co_await socket_.close(CloseCode::kGoingAway, "the server is shutting down");
          break;
        }
        if (service_.engine().now() - born > lifetime && runs_.empty()) {
          say(error_event(invalid_request("Connection limit reached (60 minutes). Open a new connection.", {},
                                          "websocket_connection_limit_reached"),
                          {}));
        } else {
          co_await bell_.wait(std::chrono::seconds(1));
          continue;
        }
      }
      while (!out_.empty() && !closed_ && going) {
        const std::string text = std::move(out_.front());
        out_.pop_front();
        // A client that takes nothing answers no ping either: the socket's idle timeout ends it.
        going = co_await socket_.write(text);
      }
      if (service_.engine().now() - born > lifetime && runs_.empty()) {
        co_await socket_.close(CloseCode::kGoingAway, "connection limit reached");
        break;
      }
    }
    if (!going) socket_.cut();
    writer_done_ = true;
    written_.ring();
  }

  void cut() {
    closed_ = true;
    socket_.cut();
  }

  static constexpr std::size_t kOutMax = 1024, kWaitingMax = 256;

  WebSocketSession& socket_;
  Service& service_;
  std::uint32_t principal_;
  std::uint64_t connection_;
  Bell bell_, written_;
  std::map<std::string, Lane> lanes_;
  std::vector<std::unique_ptr<ResponseRun>> runs_;
  std::vector<ResponseEvent> events_;
  std::deque<std::string> out_;
  std::size_t waiting_ = 0;
  bool closed_ = false, writer_done_ = false;
};

}  // namespace

asio::awaitable<void> serve_responses(WebSocketSession& socket, Service& service, std::uint32_t principal) {
  ResponsesSocket responses(socket, service, principal);
  co_await responses.run();
}

}  // namespace spillway::net
