// SPDX-License-Identifier: Apache-2.0
#include "net/vanished_peers.hpp"

#include <netinet/in.h>
#include <netinet/tcp.h>

#include <algorithm>
#include <boost/asio/detail/socket_option.hpp>

namespace spillway::net {
namespace {

template <int Name>
using TcpOption = boost::asio::detail::socket_option::integer<IPPROTO_TCP, Name>;

}  // namespace

void watch_for_vanishing(boost::asio::ip::tcp::socket& socket, std::chrono::seconds limit) {
  const int limit_s = std::max(static_cast<int>(limit.count()), 2);
  boost::system::error_code ignored;
  socket.set_option(boost::asio::socket_base::keep_alive(true), ignored);
  socket.set_option(TcpOption<TCP_KEEPIDLE>(limit_s / 2), ignored);
  socket.set_option(TcpOption<TCP_KEEPINTVL>(std::max(limit_s / 8, 1)), ignored);
  // With a user timeout, it and not the number of probes decides when a silent peer is given up (tcp(7)).
  socket.set_option(TcpOption<TCP_USER_TIMEOUT>(limit_s * 1000), ignored);
}

}  // namespace spillway::net
