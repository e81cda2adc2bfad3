// SPDX-License-Identifier: Apache-2.0
#pragma once

// A trivial OpenAI server for tests of the load generator: answers each request with a script, on a thread of
// its own. It knows nothing of models: a request's max_tokens is how many pieces of text come back.

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace spillway::tests {

/// What an HTTP answer is made of: bytes as they go into the socket, each part in a write of its own.
struct RawAnswer {
  std::vector<std::string> parts;
  std::chrono::milliseconds between{0};
  bool close_after = false;
};

class Responder {
 public:
  struct Options {
    std::chrono::milliseconds first_token{0};  // HTTP: before the first piece
    std::chrono::milliseconds per_token{0};
    bool tls = false;                         // with a certificate made for the test
    std::size_t requests_per_connection = 0;  // then it closes, without saying so beforehand; 0: no limit
    /// HTTP: the answer to the n-th request (from 0), if not the well-formed one.
    std::function<std::unique_ptr<RawAnswer>(std::size_t number, const std::string& body)> raw;
    /// WebSocket: messages instead of the well-formed answer to the n-th request; "CLOSE" closes.
    std::function<std::unique_ptr<std::vector<std::string>>(std::size_t number, const std::string& message)>
        messages;
  };
  explicit Responder(Options options);
  Responder() : Responder(Options{}) {}
  ~Responder();

  [[nodiscard]] std::uint16_t port() const;
  [[nodiscard]] std::size_t connections() const;
  [[nodiscard]] std::vector<std::string> bodies() const;  // of requests so far

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace spillway::tests
