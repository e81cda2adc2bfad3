// SPDX-License-Identifier: Apache-2.0
#include "net/server.hpp"

#include <sys/socket.h>
#include <unistd.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/thread_pool.hpp>
#include <future>
#include <list>

#include "net/access_log.hpp"
#include "net/http_connection.hpp"
#include "net/vanished_peers.hpp"

namespace spillway::net {
namespace {

using asio::ip::tcp;
using boost::system::error_code;

}  // namespace

struct Server::State {
  explicit State(ServerOptions options)
      : access(options.api_keys, options.allowed_origins), service(std::move(options)), acceptor(io), retry(io) {}

  /// Runs `work` on the I/O thread and waits for what it gives.
  template <class Work>
  auto on_io(Work work) {
    std::packaged_task<decltype(work())()> task(std::move(work));
    auto done = task.get_future();
    asio::post(io, std::move(task));
    return done.get();
  }

  /// The I/O thread's whole life. What third-party code throws out of a handler costs its connection, not the server.
  void run_io() {
    for (bool ended = false; !ended;) {
      try {
        io.run();
        ended = true;
      } catch (const std::exception& error) {
        log_event(std::string("a connection broke off: ") + error.what());
      }
    }
  }

  asio::awaitable<void> accept_all() {
    while (acceptor.is_open()) {
      error_code error;
      tcp::socket socket = co_await acceptor.async_accept(asio::redirect_error(asio::use_awaitable, error));
      if (error) {
        if (!acceptor.is_open()) break;
        // Out of descriptors, or the client left: a pause, so that the loop does not spin.
        retry.expires_after(std::chrono::milliseconds(20));
        co_await retry.async_wait(asio::redirect_error(asio::use_awaitable, error));
        continue;
      }
      if (open.size() >= service.options().connections_max) continue;  // closed by its destructor
      socket.set_option(tcp::no_delay(true), error);
      watch_for_vanishing(socket, service.options().write_timeout);
      begin(std::move(socket));
    }
  }

  void begin(tcp::socket socket) {
    const auto place = open.insert(open.end(), socket.native_handle());
    NetStream stream = tls ? NetStream(std::move(socket), *tls) : NetStream(std::move(socket));
    asio::co_spawn(io, serve_connection(std::move(stream), service, access), [this, place](std::exception_ptr failure) {
      open.erase(place);
      if (!failure) return;
      try {
        std::rethrow_exception(failure);
      } catch (const std::exception& error) {
        log_event(std::string("a connection failed: ") + error.what());
      }
    });
  }

  asio::io_context io{1};
  Access access;
  Service service;
  std::optional<asio::ssl::context> tls;
  tcp::acceptor acceptor;
  asio::steady_timer retry;
  std::list<int> open;  // descriptors of open connections
  std::uint16_t port = 0;
  std::optional<asio::executor_work_guard<asio::io_context::executor_type>> work;
  std::optional<asio::thread_pool> thread;
};

Server::Server(std::unique_ptr<State> state) : state_(std::move(state)) {}
Server::~Server() { stop(); }
std::uint16_t Server::port() const noexcept { return state_->port; }

Result<std::unique_ptr<Server>> Server::start(ServerOptions options) {
  auto state = std::make_unique<State>(std::move(options));
  const ServerOptions& set = state->service.options();
  error_code error;
  if (!set.ssl_certfile.empty() || !set.ssl_keyfile.empty()) {
    if (set.ssl_certfile.empty() || set.ssl_keyfile.empty())
      return Error{Errc::kInvalidArgument, "--ssl-certfile and --ssl-keyfile are given together or not at all"};
    state->tls.emplace(asio::ssl::context::tls_server);
    state->tls->set_options(asio::ssl::context::default_workarounds | asio::ssl::context::no_sslv2 |
                            asio::ssl::context::no_sslv3 | asio::ssl::context::no_tlsv1 |
                            asio::ssl::context::no_tlsv1_1);
    state->tls->use_certificate_chain_file(set.ssl_certfile.string(), error);
    if (error) return Error{Errc::kBadFile, "--ssl-certfile: " + set.ssl_certfile.string() + ": " + error.message()};
    state->tls->use_private_key_file(set.ssl_keyfile.string(), asio::ssl::context::pem, error);
    if (error) return Error{Errc::kBadFile, "--ssl-keyfile: " + set.ssl_keyfile.string() + ": " + error.message()};
  }
  tcp::resolver resolver(state->io);
  const auto found = resolver.resolve(set.host, std::to_string(set.port), tcp::resolver::passive, error);
  if (error || found.empty()) return Error{Errc::kInvalidArgument, "--host: '" + set.host + "' is no address here"};
  const tcp::endpoint endpoint = found.begin()->endpoint();
  state->acceptor.open(endpoint.protocol(), error);
  if (!error) state->acceptor.set_option(tcp::acceptor::reuse_address(true), error);
  if (!error) state->acceptor.bind(endpoint, error);
  if (!error) state->acceptor.listen(4096, error);
  if (error) {
    return Error{Errc::kIo, "cannot listen on " + set.host + " port " + std::to_string(set.port) + ": " + error.message()};
  }
  state->port = state->acceptor.local_endpoint().port();
  state->work.emplace(asio::make_work_guard(state->io));
  asio::co_spawn(state->io, state->accept_all(), [](std::exception_ptr) {});
  state->thread.emplace(1);
  asio::post(*state->thread, [state = state.get()] { state->run_io(); });
  return std::unique_ptr<Server>(new Server(std::move(state)));
}

void Server::attach(Engine& engine) {
  state_->on_io([&] { state_->service.attach(engine, state_->io.get_executor()); });
}

bool Server::drain(std::chrono::milliseconds limit, const std::function<bool()>& hurry) {
  State& s = *state_;
  s.on_io([&] { s.service.drain(); });
  const auto idle = [&] { return s.on_io([&] { return s.service.running() == 0; }); };
  const auto wait = [&](std::chrono::milliseconds span, bool may_hurry) {
    constexpr std::chrono::milliseconds kStep(20);
    for (; span.count() > 0 && !(may_hurry && hurry && hurry()); span -= kStep) {
      if (idle()) return true;
      usleep(20'000);
    }
    return idle();
  };
  if (wait(limit, true)) return true;
  s.on_io([&] { s.service.cancel_all(); });
  static_cast<void>(wait(std::chrono::milliseconds(2000), false));
  return false;
}

void Server::stop() {
  State& s = *state_;
  if (!s.thread) return;
  s.on_io([&] {
    error_code ignored;
    s.service.drain();
    s.acceptor.close(ignored);
    s.retry.cancel();
  });
  // Connections notice that the server drains within a second; what then still hangs is shut down under them.
  for (int tries = 0; tries < 150 && !s.on_io([&] { return s.open.empty(); }); ++tries) {
    usleep(20'000);
    if (tries == 75) {
      s.on_io([&] {
        for (const int descriptor : s.open) ::shutdown(descriptor, SHUT_RDWR);
      });
    }
  }
  asio::post(s.io, [&s] { s.io.stop(); });
  s.thread->join();
  s.thread.reset();
  s.service.detach();
}

}  // namespace spillway::net
