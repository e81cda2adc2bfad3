// SPDX-License-Identifier: Apache-2.0
#pragma once

// A peer that vanishes without a word (its machine died, its network is gone) sends no FIN, and what is
// written for it fits the kernel's buffers for minutes: no write blocks, no read ends. So the kernel is asked
// to watch: probes to a silent peer, and an end to waiting for acknowledgements. The outstanding read then
// ends with an error.

#include <boost/asio/ip/tcp.hpp>
#include <chrono>

namespace spillway::net {

/// The connection breaks when the peer has acknowledged nothing for `limit`, whether or not there is
/// something to send; an eighth of it later, and a second, at most. At least 2 s. Best effort: a kernel may
/// know less of it.
void watch_for_vanishing(boost::asio::ip::tcp::socket& socket, std::chrono::seconds limit);

}  // namespace spillway::net
