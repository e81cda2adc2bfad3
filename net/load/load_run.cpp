// SPDX-License-Identifier: Apache-2.0
#include "net/load/load_run.hpp"

#include <algorithm>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <deque>

namespace spillway::net::load {
namespace {

namespace asio = boost::asio;

constexpr auto kTick = std::chrono::milliseconds(200);
/// For connections to be closed in order.
constexpr auto kCloseTime = std::chrono::milliseconds(500);
/// Requests sent in a row before answers are looked at again.
constexpr std::size_t kBurstMax = 64;
/// From the origin to the first due time: the loop is running by then.
constexpr std::int64_t kLeadNs = 20'000'000;

class Run {
 public:
  Run(asio::io_context& io, Transport& transport, RunClock& clock, std::vector<PreparedRequest> requests,
      const RunOptions& options, RunObserver& observer)
      : io_(io),
        transport_(transport),
        clock_(clock),
        requests_(std::move(requests)),
        options_(options),
        observer_(observer),
        due_(io),
        tick_(io) {
    result_.lines.resize(requests_.size());
    for (std::size_t i = 0; i < requests_.size(); ++i)
      result_.lines[i].prompt_tokens = requests_[i].prompt_tokens;
  }

  RunResult run() {
    clock_.origin_ns = clock_.now_ns() + (options_.closed_loop ? 0 : kLeadNs);
    if (!requests_.empty()) {
      asio::post(io_, [this] { options_.closed_loop ? fill_slots() : send_due(); });
      schedule_tick();
      io_.run();
      io_.restart();
    }
    for (const Timeline& line : result_.lines)
      result_.duration_s = std::max(result_.duration_s, static_cast<double>(line.end_ns) * 1e-9);
    return std::move(result_);
  }

 private:
  void send_due() {
    for (std::size_t burst = 0; next_ < requests_.size(); ++next_) {
      const std::int64_t at_ns = requests_[next_].at_ns;
      if (clock_.elapsed_ns() < at_ns) {
        // The clock that Asio's timer waits on is the one that now_ns reads.
        due_.expires_at(
            std::chrono::steady_clock::time_point(std::chrono::nanoseconds(clock_.origin_ns + at_ns)));
        due_.async_wait([this](boost::system::error_code cancelled) {
          if (!cancelled) send_due();
        });
        return;
      }
      if (++burst > kBurstMax) {
        asio::post(io_, [this] { send_due(); });
        return;
      }
      result_.lines[next_].scheduled_ns = at_ns;
      if (options_.max_concurrency != 0 && in_flight_ >= options_.max_concurrency) {
        waiting_.push_back(next_);
      } else {
        result_.lines[next_].slot_ns = at_ns;
        send(next_);
      }
    }
  }

  /// Closed loop: a request is due when there is room for it.
  void fill_slots() {
    const std::int64_t now_ns = clock_.elapsed_ns();
    while (next_ < requests_.size() && in_flight_ < options_.max_concurrency) {
      result_.lines[next_].scheduled_ns = result_.lines[next_].slot_ns = now_ns;
      send(next_++);
    }
  }

  void send(std::size_t index) {
    ++sent_;
    ++in_flight_;
    transport_.send(std::move(requests_[index].body), result_.lines[index],
                    [this, index] { on_done(index); });
  }

  void on_done(std::size_t index) {
    if (result_.interrupted) return;
    --in_flight_;
    ++done_;
    if (!result_.lines[index].ok) ++failed_;
    if (options_.closed_loop) {
      fill_slots();
    } else if (!waiting_.empty()) {
      const std::size_t next = waiting_.front();
      waiting_.pop_front();
      result_.lines[next].slot_ns = clock_.elapsed_ns();
      send(next);
    }
    if (done_ == requests_.size()) io_.stop();
  }

  void schedule_tick() {
    tick_.expires_after(kTick);
    tick_.async_wait([this](boost::system::error_code cancelled) {
      if (cancelled) return;
      observer_.on_tick(
          {clock_.elapsed_ns(), sent_, done_, failed_, in_flight_, waiting_.size(), result_.lines});
      if (observer_.wants_end()) {
        interrupt();
      } else {
        schedule_tick();
      }
    });
  }

  void interrupt() {
    result_.interrupted = true;
    for (Timeline& line : result_.lines) {
      if (line.ok || !line.error.empty()) continue;
      line.error = line.sent_ns < 0 ? "not sent: the run was interrupted" : "the run was interrupted";
      if (line.sent_ns >= 0) line.end_ns = clock_.elapsed_ns();
    }
    io_.stop();
  }

  asio::io_context& io_;
  Transport& transport_;
  RunClock& clock_;
  std::vector<PreparedRequest> requests_;
  const RunOptions& options_;
  RunObserver& observer_;
  asio::steady_timer due_, tick_;
  std::deque<std::size_t> waiting_;
  std::size_t next_ = 0, sent_ = 0, done_ = 0, failed_ = 0, in_flight_ = 0;
  RunResult result_;
};

/// Runs without being watched.
class Unwatched final : public RunObserver {
 public:
  explicit Unwatched(RunObserver& observer) : observer_(observer) {}
  void on_tick(const RunView&) override {}
  bool wants_end() override { return observer_.wants_end(); }

 private:
  RunObserver& observer_;
};

Result<void> warm_up(asio::io_context& io, Transport& transport, RunClock& clock, const PreparedRequest& like,
                     RunOptions options, RunObserver& observer) {
  std::vector<PreparedRequest> requests(options.warm_ups, like);
  options.closed_loop = true;
  if (options.max_concurrency == 0) options.max_concurrency = options.warm_ups;
  Unwatched unwatched(observer);
  const RunResult result = Run(io, transport, clock, std::move(requests), options, unwatched).run();
  if (result.interrupted) return Error{Errc::kCancelled, "interrupted while warming up"};
  for (const Timeline& line : result.lines) {
    if (line.ok) return {};
  }
  return Error{Errc::kIo, "every warm-up request failed: " + result.lines.front().error};
}

}  // namespace

Result<std::unique_ptr<Transport>> make_transport(asio::io_context& io, TransportOptions options,
                                                  const RunClock& clock) {
  return options.dialect == Dialect::kResponsesSocket
             ? make_websocket_transport(io, std::move(options), clock)
             : make_http_transport(io, std::move(options), clock);
}

Result<RunResult> run_load(std::vector<PreparedRequest> requests, RunOptions options, RunObserver& observer) {
  SPW_CHECK(options.now_ns != nullptr);
  SPW_CHECK(!options.closed_loop || options.max_concurrency != 0);
  RunClock clock{options.now_ns};
  asio::io_context io(1);
  Result<std::unique_ptr<Transport>> made = make_transport(io, options.transport, clock);
  if (!made) return made.error();
  const std::unique_ptr<Transport> transport = std::move(*made);
  if (options.warm_ups != 0 && !requests.empty()) {
    const Result<void> warm = warm_up(io, *transport, clock, requests.front(), options, observer);
    if (!warm) return warm.error();
  }
  RunResult result = Run(io, *transport, clock, std::move(requests), options, observer).run();
  result.connections_opened = transport->connections_opened();
  if (result.interrupted) return result;  // answers under way would still report to the run that has ended
  transport->close();
  io.run_for(kCloseTime);
  return result;
}

}  // namespace spillway::net::load
