// SPDX-License-Identifier: Apache-2.0
#pragma once

// Service: what all connections of the server share. It belongs to the I/O thread; nothing of it is touched by any
// other, so nothing is locked.

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>

#include "net/api_request.hpp"
#include "net/conversations.hpp"
#include "net/engine_port.hpp"
#include "net/metrics.hpp"
#include "net/server_options.hpp"

namespace spillway::net {

class Service {
 public:
  explicit Service(ServerOptions options);

  /// From here on requests are served; until then /health says 503.
  void attach(Engine& engine, boost::asio::any_io_executor executor);
  /// After the last generation has ended.
  void detach();

  [[nodiscard]] const ServerOptions& options() const noexcept { return options_; }
  [[nodiscard]] Metrics& metrics() noexcept { return metrics_; }
  [[nodiscard]] Conversations& conversations() noexcept { return conversations_; }
  [[nodiscard]] EnginePort& port() noexcept { return *port_; }
  [[nodiscard]] Engine& engine() noexcept { return port_->engine(); }
  [[nodiscard]] const RequestRules& rules() const noexcept { return rules_; }
  [[nodiscard]] const std::string& model_name() const noexcept { return options_.served_model_names.front(); }
  [[nodiscard]] std::int64_t now_s() const { return options_.unix_time_s(); }

  /// The engine's clock; stands still while there is none.
  [[nodiscard]] runtime::TimePoint clock() const {
    return port_ == nullptr ? runtime::TimePoint{} : port_->engine().now();
  }

  [[nodiscard]] bool ready() const noexcept { return port_ != nullptr && !draining_; }
  [[nodiscard]] bool loading() const noexcept { return port_ == nullptr; }
  [[nodiscard]] bool draining() const noexcept { return draining_; }
  void drain() noexcept { draining_ = true; }

  /// Why nothing can be generated now: loading, draining, or a model of another name.
  [[nodiscard]] std::optional<ApiError> refusal(std::string_view model) const;
  /// Why `choices` more do not fit the queue.
  [[nodiscard]] std::optional<ApiError> queue_refusal(std::size_t choices);

  [[nodiscard]] Result<std::vector<model::TokenId>> encode(const Prompt& prompt, bool add_special_tokens) const;
  /// max_tokens where none was given, a seed where none was given.
  void complete_params(model::SamplingParams& params, std::size_t prompt_tokens, bool max_tokens_given,
                       bool seed_given) const;
  [[nodiscard]] actors::PrefixHash salt_of(std::uint32_t principal) const noexcept;

  /// "chatcmpl-" and 24 hexadecimal digits that nobody can guess.
  [[nodiscard]] std::string new_id(std::string_view prefix) const;
  [[nodiscard]] std::uint64_t new_connection() noexcept { return ++last_connection_; }

  /// Running requests by the id their client knows, for /v1/requests/{id}/cancel.
  void enlist(const std::string& id, std::uint32_t principal, std::size_t choices, std::function<void()> cancel);
  void delist(const std::string& id);
  /// False: no such request of this principal.
  bool cancel(const std::string& id, std::uint32_t principal);
  void cancel_all();
  [[nodiscard]] std::size_t running() const noexcept { return running_.size(); }

 private:
  struct Running {
    std::uint32_t principal = 0;
    std::size_t choices = 0;
    std::function<void()> cancel;
  };
  ServerOptions options_;
  RequestRules rules_;
  Metrics metrics_;
  Conversations conversations_;
  std::unique_ptr<EnginePort> port_;
  std::unordered_map<std::string, Running> running_;
  std::size_t choices_ = 0;  // of all running requests
  std::uint64_t last_connection_ = 0;
  bool draining_ = false;
};

/// Enlisted while it lives.
class Enlisted {
 public:
  Enlisted(Service& service, std::string id, std::uint32_t principal, std::size_t choices, std::function<void()> cancel)
      : service_(service), id_(std::move(id)) {
    service_.enlist(id_, principal, choices, std::move(cancel));
  }
  Enlisted(const Enlisted&) = delete;
  Enlisted& operator=(const Enlisted&) = delete;
  ~Enlisted() { service_.delist(id_); }

 private:
  Service& service_;
  std::string id_;
};

}  // namespace spillway::net
