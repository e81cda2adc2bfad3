// SPDX-License-Identifier: Apache-2.0
#include "net/load/dialer.hpp"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/connect.hpp>
#include <boost/asio/ssl/host_name_verification.hpp>
#include <boost/asio/use_awaitable.hpp>

namespace spillway::net::load {
namespace {

constexpr auto kAsTuple = asio::as_tuple(asio::use_awaitable);

}  // namespace

Result<void> Dialer::prepare() {
  boost::system::error_code error;
  asio::ip::tcp::resolver resolver(*io_);
  addresses_ = resolver.resolve(target_.host, target_.port, error);
  if (error) return Error{Errc::kNotFound, target_.authority() + ": " + error.message()};
  if (!target_.tls) return {};
  tls_ = std::make_unique<asio::ssl::context>(asio::ssl::context::tls_client);
  if (!target_.verify_peer) return {};
  tls_->set_default_verify_paths(error);
  if (error) return Error{Errc::kIo, "the system's certificate authorities: " + error.message()};
  tls_->set_verify_mode(asio::ssl::verify_peer);
  return {};
}

asio::awaitable<Result<NetStream>> Dialer::dial() {
  asio::ip::tcp::socket socket(*io_);
  const auto [connect_error, address] = co_await asio::async_connect(socket, addresses_, kAsTuple);
  if (connect_error) co_return Error{Errc::kIo, "connect: " + connect_error.message()};
  boost::system::error_code ignored;
  socket.set_option(asio::ip::tcp::no_delay(true), ignored);
  if (!tls_) co_return NetStream(std::move(socket));

  NetStream stream(std::move(socket), *tls_);
  NetStream::Tls& tls = *stream.tls();
  SSL_set_tlsext_host_name(tls.native_handle(), target_.host.c_str());
  if (target_.verify_peer) tls.set_verify_callback(asio::ssl::host_name_verification(target_.host), ignored);
  const auto [tls_error] = co_await tls.async_handshake(asio::ssl::stream_base::client, kAsTuple);
  if (tls_error) co_return Error{Errc::kIo, "TLS handshake: " + tls_error.message()};
  co_return std::move(stream);
}

}  // namespace spillway::net::load
