// SPDX-License-Identifier: Apache-2.0
// spillway serve as a shell sees it: what it refuses, its config file, and how it ends.

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <csignal>

#include "tests/e2e/program.hpp"
#include "tests/support/catch.hpp"

namespace spillway::e2e {
namespace {

std::string get(const std::string& port, const std::string& path) {
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(std::stoi(port)));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  std::string text;
  if (::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) {
    const std::string request = "GET " + path + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    static_cast<void>(::send(fd, request.data(), request.size(), MSG_NOSIGNAL));
    char bytes[4096];
    for (ssize_t count = 0; (count = ::recv(fd, bytes, sizeof bytes, 0)) > 0;) text.append(bytes, static_cast<std::size_t>(count));
  }
  ::close(fd);
  return text;
}

std::string port_of(const std::string& line) {
  const std::size_t colon = line.rfind(':');
  return line.substr(colon + 1, line.find('\n', colon) - colon - 1);
}

TEST_CASE("serve: listens, answers, and SIGTERM ends it cleanly") {
  Running server({"serve", tiny_model().string(), "--port", "0", "--served-model-name", "tiny"});
  const std::string port = port_of(server.read_until("127.0.0.1:"));
  REQUIRE_FALSE(port.empty());
  CHECK(get(port, "/health").find(R"({"status":"ok"})") != std::string::npos);
  CHECK(get(port, "/v1/models").find(R"("id":"tiny")") != std::string::npos);
  server.signal(SIGTERM);
  CHECK(server.finish().code == 0);
}

TEST_CASE("serve: options come from a file, and the command line wins") {
  const auto config = write_file("serve.toml", "port = 1\nserved_model_name = [\"from-file\"]\n[engine]\nmax-num-seqs = 3\n");
  Running server({"serve", tiny_model().string(), "--config", config.string(), "--port", "0"});
  const std::string port = port_of(server.read_until("127.0.0.1:"));
  REQUIRE_FALSE(port.empty());
  CHECK(get(port, "/v1/models").find("from-file") != std::string::npos);
  server.signal(SIGINT);
  CHECK(server.finish().code == 130);
}

TEST_CASE("serve: what is wrong is said, with the option's name") {
  const std::string model = tiny_model().string();
  const auto wrong = [&](std::vector<std::string> more) {
    std::vector<std::string> arguments = {"serve", model, "--port", "0"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Ran ran = spillway(arguments);
    CHECK(ran.code != 0);
    return ran.err;
  };
  CHECK_THAT(wrong({"--port", "99999"}), Catch::Matchers::Contains("--port"));
  CHECK_THAT(wrong({"--sparse-kv-cache-method", "h3o"}),
             Catch::Matchers::Contains("--sparse-kv-cache-method: the method is 'h3o'; there are none, random, h2o"));
  CHECK_THAT(wrong({"--sparse-kv-cache-method", "h2o"}),
             Catch::Matchers::Contains("--sparse-kv-cache-method h2o: there is no budget"));
  CHECK_THAT(wrong({"--sparse-kv-cache-method", "h2o", "--sparse-kv-cache-budget", "3"}),
             Catch::Matchers::Contains("a budget of 3 tokens is too small"));
  CHECK_THAT(wrong({"--sparse-kv-cache-budget", "256"}),
             Catch::Matchers::Contains("do nothing without --sparse-kv-cache-method"));
  CHECK_THAT(wrong({"--sparse-kv-cache-method", "tova", "--sparse-kv-cache-budget", "64", "--sparse-kv-cache-min-budget", "65"}),
             Catch::Matchers::Contains("--sparse-kv-cache-min-budget is 65, more than --sparse-kv-cache-budget (64)"));
  CHECK_THAT(wrong({"--host", "not an address"}), Catch::Matchers::Contains("--host"));
  CHECK_THAT(wrong({"--ssl-certfile", "x"}), Catch::Matchers::Contains("--ssl-keyfile"));
  CHECK_THAT(wrong({"--api-key-file", "/nothing"}), Catch::Matchers::Contains("--api-key-file"));
  CHECK_THAT(wrong({"--config", "/nothing"}), Catch::Matchers::Contains("/nothing"));
  CHECK_THAT(wrong({"--config", write_file("a.toml", "port = \n").string()}), Catch::Matchers::Contains("line 1"));
  CHECK_THAT(wrong({"--config", write_file("b.toml", "prot = 1\n").string()}), Catch::Matchers::Contains("--prot"));
  CHECK_THAT(wrong({"--config", write_file("c.toml", "port = 2020-01-01\n").string()}), Catch::Matchers::Contains("'port'"));
}

}  // namespace
}  // namespace spillway::e2e
