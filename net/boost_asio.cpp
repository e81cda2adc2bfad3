// SPDX-License-Identifier: Apache-2.0
// The compiled part of Asio and Beast.

#include <boost/asio/impl/src.hpp>
#include <boost/asio/ssl/impl/src.hpp>
#include <boost/beast/src.hpp>
