// SPDX-License-Identifier: Apache-2.0
// spillway serve: the engine behind HTTP and WebSocket.

#include <poll.h>

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <chrono>
#include <csignal>
#include <fstream>
#include <memory>
#include <utility>

#include "cli/command.hpp"
#include "cli/interrupt.hpp"
#include "cli/log.hpp"
#include "cli/option_values.hpp"
#include "cli/options.hpp"
#include "cli/output.hpp"
#include "cli/report.hpp"
#include "cli/serve_config.hpp"
#include "cli/start_engine.hpp"
#include "cli/values.hpp"
#include "net/server.hpp"

namespace spillway::cli {
namespace {

/// People read along: an arriving prompt may not double the time between their tokens.
constexpr double kMaxItlStretch = 1.4;

struct ServeOptions {
  EngineOptions engine;
  net::ServerOptions server;
  std::filesystem::path api_key_file, config;
  std::int64_t drain_s = 30;

  ServeOptions() {
    engine.max_itl_stretch = kMaxItlStretch;
    engine.populate_kv_cache = true;
    engine.kv_cache_grows = true;
  }
};

void add_seconds(CLI::App& command, const std::string& name, const std::string& help, std::chrono::seconds& target) {
  add_value(command, name, "SECONDS", help, [&target](const std::string& text) -> Result<void> {
    const Result<std::int64_t> value = parse_integer(text, 1, 86400);
    if (!value) return value.error();
    target = std::chrono::seconds(*value);
    return {};
  });
}

void add_size(CLI::App& command, const std::string& name, const std::string& help, std::size_t& target) {
  add_value(command, name, "SIZE", help, [&target](const std::string& text) -> Result<void> {
    const Result<std::uint64_t> value = parse_bytes(text);
    if (!value) return value.error();
    if (*value < 1024) return Error{Errc::kInvalidArgument, "'" + text + "' is under 1KiB"};
    target = *value;
    return {};
  });
}

void add_text(CLI::App& command, const std::string& name, const std::string& type, const std::string& help,
              std::function<void(std::string)> take) {
  command
      .add_option_function<std::string>(
          name, [take = std::move(take)](const std::string& text) { take(text); }, help)
      ->type_name(type);
}

void declare_server(CLI::App& command, ServeOptions& options) {
  net::ServerOptions& server = options.server;
  add_text(command, "--host", "ADDRESS", "where to listen [127.0.0.1]",
           [&](std::string text) { server.host = std::move(text); });
  add_number(command, "--port", "where to listen; 0: any free port [8000]", server.port, 0, 65535);
  add_texts(command, "--served-model-name", "NAME", "the model's name in the API [the file's name]; may be given several times",
           server.served_model_names);
  add_texts(command, "--api-key", "KEY", "a key that clients must send; may be given several times [none needed]", server.api_keys);
  add_text(command, "--api-key-file", "FILE", "keys, one a line",
           [&](std::string text) { options.api_key_file = std::move(text); });
  command.add_flag("--salt-prefix-cache-per-key", server.salt_prefix_cache_per_key,
                   "share KV between requests of the same key only");
  add_text(command, "--ssl-certfile", "FILE", "TLS: certificate chain, PEM",
           [&](std::string text) { server.ssl_certfile = std::move(text); });
  add_text(command, "--ssl-keyfile", "FILE", "TLS: private key, PEM",
           [&](std::string text) { server.ssl_keyfile = std::move(text); });
  add_texts(command, "--allowed-origin", "ORIGIN", "pages of this origin may use the server (CORS, WebSocket); *: all [none]",
           server.allowed_origins);
  add_number(command, "--max-num-queued-reqs", "answers that may wait beyond those that run; more get 429 [1024]",
             server.max_num_queued_reqs, 0, 1 << 20);
  add_number(command, "--max-connections", "open connections [16384]", server.connections_max, 1, 1 << 20);
  add_number(command, "--max-streams-per-connection", "responses in flight on one WebSocket [16]",
             server.streams_per_connection_max, 1, 4096);
  add_size(command, "--max-body-size", "longest HTTP body [4MiB]", server.body_bytes_max);
  add_size(command, "--max-frame-size", "longest WebSocket message [4MiB]", server.frame_bytes_max);
  add_size(command, "--max-prompt-size", "longest prompt, bytes [1MiB]", server.prompt_bytes_max);
  add_number(command, "--max-header-size", "longest HTTP header [16384]", server.header_bytes_max, 1024, 1 << 20, "BYTES");
  add_seconds(command, "--header-timeout", "for a request's header to arrive [10]", server.header_timeout);
  add_seconds(command, "--body-timeout", "for its body [60]", server.body_timeout);
  add_seconds(command, "--keep-alive-timeout", "between two requests of a connection [75]", server.keep_alive_timeout);
  add_seconds(command, "--write-timeout", "for a client to take output; then it is cut [60]", server.write_timeout);
  add_seconds(command, "--ws-idle-timeout", "a WebSocket client is pinged after half of it, cut at the end [60]",
              server.websocket_idle_timeout);
  add_number(command, "--drain-timeout", "after SIGTERM: for running answers to end [30]", options.drain_s, 0, 86400, "SECONDS");
  add_text(command, "--config", "FILE", "TOML: the options above and below; the command line wins",
           [&](std::string text) { options.config = std::move(text); });
}

void declare(CLI::App& command, ServeOptions& options) {
  add_model(command, options.engine.model);
  declare_server(command, options);
  add_engine_options(command, options.engine);
  add_sparse_options(command, options.engine);
  command.add_flag("--simulate-device", options.engine.simulate_device)
      ->group("");  // hidden: computes nothing, measures the house without the device
  command.add_option("--inject-device-fault", options.engine.inject_device_fault)
      ->group("");  // hidden: a GPU is lost at this step
}

Result<void> read_keys(ServeOptions& options) {
  if (options.api_key_file.empty()) return {};
  std::ifstream file(options.api_key_file);
  if (!file) return Error{Errc::kNotFound, "--api-key-file: cannot read " + options.api_key_file.string()};
  std::string line;
  while (std::getline(file, line)) {
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.pop_back();
    if (!line.empty()) options.server.api_keys.push_back(line);
  }
  if (options.server.api_keys.empty())
    return Error{Errc::kInvalidArgument, "--api-key-file: " + options.api_key_file.string() + " holds no key"};
  return {};
}

/// Until SIGINT or SIGTERM.
void wait_for_signal() {
  pollfd wake{.fd = interrupt::wake_fd(), .events = POLLIN, .revents = 0};
  while (interrupt::signal() == 0) ::poll(&wake, 1, 1000);
}

int run(ServeOptions& options) {
  if (Result<void> keys = read_keys(options); !keys) return complain(keys.error());
  net::ServerOptions& server_options = options.server;
  if (server_options.served_model_names.empty()) {
    const std::filesystem::path& model = options.engine.model;
    server_options.served_model_names.push_back((model.has_filename() ? model : model.parent_path()).filename().string());
  }
  server_options.unix_time_s = [] {
    return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count();
  };
  server_options.version = SPILLWAY_VERSION;
  const bool tls = !server_options.ssl_certfile.empty();
  const std::string host = server_options.host;
  const std::size_t keys = server_options.api_keys.size();

  Result<std::unique_ptr<net::Server>> server = net::Server::start(std::move(server_options));
  if (!server) return complain(server.error());
  EngineOptions engine_options = options.engine;
  engine_options.stall_limit = options.server.write_timeout;
  Result<std::unique_ptr<Engine>> engine = start_engine(std::move(engine_options), true);
  if (!engine) return complain(engine.error());
  (*server)->attach(**engine);
  interrupt::defer(true);
  if (keys == 0 && host != "127.0.0.1" && host != "localhost" && host != "::1")
    log_warning("listening on " + host + " without an API key: whoever reaches this port may use it");
  {
    Output out;
    out.write("Spillway serves on " + std::string(tls ? "https" : "http") + "://" + host + ":" +
              std::to_string((*server)->port()) + "\n");
    static_cast<void>(out.finish());
  }
  wait_for_signal();
  const int signal = interrupt::signal();
  log_info("draining");
  interrupt::defer(false);  // a second signal ends at once
  const bool clean = (*server)->drain(std::chrono::seconds(options.drain_s), {});
  (*server)->stop();
  (*engine)->shutdown();
  log_info(clean ? "drained" : "drained; some answers were cut at the deadline");
  return signal == SIGTERM ? 0 : 128 + signal;
}

}  // namespace

Run make_serve(CLI::App& command) {
  const auto options = std::make_shared<ServeOptions>();
  declare(command, *options);
  return [options] { return run(*options); };
}

}  // namespace spillway::cli
