// SPDX-License-Identifier: Apache-2.0
// A model on two nodes as a shell sees it, as far as that goes without GPUs: nodes that miss each other, or
// do not fit.

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <thread>

#include "tests/e2e/program.hpp"
#include "tests/support/catch.hpp"

namespace spillway::e2e {
namespace {

using Catch::Matchers::Contains;

std::string free_port() {
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  REQUIRE(::bind(fd, reinterpret_cast<const sockaddr*>(&address), size) == 0);
  REQUIRE(::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) == 0);
  ::close(fd);
  return std::to_string(ntohs(address.sin_port));
}

struct Nodes {
  Ran leader, worker;
};

/// Node 0 with one model and key, node 1 with another.
Nodes run_nodes(const std::string& leaders, const std::string& workers,
                const std::vector<std::string>& leaders_key = {},
                const std::vector<std::string>& workers_key = {}) {
  const std::string port = free_port();
  std::vector<std::string> lead = {"generate", leaders, "--prompt",      "x",  "--tensor-parallel-size", "2",
                                   "--nnodes", "2",     "--master-port", port, "--nodes-timeout",        "3"};
  std::vector<std::string> work = {"worker",        workers, "--node-rank",     "1",
                                   "--master-port", port,    "--nodes-timeout", "20"};
  lead.insert(lead.end(), leaders_key.begin(), leaders_key.end());
  work.insert(work.end(), workers_key.begin(), workers_key.end());
  Nodes nodes;
  std::thread worker([&] { nodes.worker = spillway(work); });
  nodes.leader = spillway(lead);
  worker.join();
  return nodes;
}

}  // namespace

TEST_CASE("nodes: one that does not come is named") {
  const Ran leader = spillway({"serve", tiny_model().string(), "--port", "0", "--tensor-parallel-size", "4",
                               "--nnodes", "2", "--master-port", free_port(), "--nodes-timeout", "1"});
  CHECK(leader.code != 0);
  CHECK_THAT(leader.err, Contains("waiting for node 1 at 127.0.0.1:"));
  CHECK_THAT(leader.err,
             Contains("node 1 of 2 did not come to 127.0.0.1:") && Contains("within 1 s (--nodes-timeout)"));
}

TEST_CASE("nodes: a worker without a leader says where there is none") {
  const std::string port = free_port();
  const Ran worker = spillway(
      {"worker", tiny_model().string(), "--node-rank", "1", "--master-port", port, "--nodes-timeout", "1"});
  CHECK(worker.code != 0);
  CHECK_THAT(worker.err, Contains("there is no leader at 127.0.0.1:" + port + ": Connection refused"));
}

TEST_CASE("nodes: two models are told apart, and both sides say so") {
  const Nodes nodes = run_nodes(tiny_model("llama-gqa").string(), tiny_model("llama-odd").string());
  CHECK(nodes.leader.code != 0);
  CHECK(nodes.worker.code != 0);
  CHECK_THAT(nodes.worker.err, Contains("the model here is not the leader's: its configuration"));
}

TEST_CASE("nodes: another key keeps a worker out") {
  const std::string a = write_file("a.key", "0123456789abcdef\n").string(),
                    b = write_file("b.key", "another 16 bytes\n").string();
  const Nodes nodes = run_nodes(tiny_model().string(), tiny_model().string(), {"--master-key-file", a},
                                {"--master-key-file", b});
  CHECK_THAT(nodes.leader.err,
             Contains("node 1 of 2 did not come") && Contains("its key is not the leader's"));
  CHECK_THAT(nodes.worker.err, Contains("its key is not the one here (--master-key-file)"));
  const Nodes without = run_nodes(tiny_model().string(), tiny_model().string(), {"--master-key-file", a});
  CHECK_THAT(without.worker.err, Contains("its key is not the one here (--master-key-file)"));
}

TEST_CASE("nodes: nodes that fit get as far as their GPUs") {
  const std::string key = write_file("good.key", "0123456789abcdef\n").string();
  const Nodes nodes = run_nodes(tiny_model().string(), tiny_model().string(), {"--master-key-file", key},
                                {"--master-key-file", key});
  CHECK_THAT(nodes.leader.err, Contains("node 1 (127.0.0.1:") && Contains("has come"));
  CHECK_THAT(nodes.leader.err, Contains("CUDA"));
  CHECK_THAT(nodes.worker.err, Contains("CUDA"));
}

TEST_CASE("nodes: options that cannot be are refused before anybody is waited for") {
  const auto wrong = [](std::vector<std::string> more) {
    std::vector<std::string> command = {"generate", tiny_model().string(), "--prompt", "x"};
    command.insert(command.end(), more.begin(), more.end());
    const Ran ran = spillway(command);
    CHECK(ran.code == 2);
    return ran.err;
  };
  CHECK_THAT(wrong({"--nnodes", "2"}),
             Contains("--nnodes is 2, among which --tensor-parallel-size 1 cannot be shared evenly"));
  CHECK_THAT(wrong({"--nnodes", "3", "--tensor-parallel-size", "4"}), Contains("--nnodes is 3"));
  CHECK_THAT(wrong({"--nnodes", "2", "--tensor-parallel-size", "2", "--device", "host"}),
             Contains("--device host is none"));
  CHECK_THAT(wrong({"--nnodes", "2", "--tensor-parallel-size", "2", "--master-addr", "0.0.0.0",
                    "--master-port", free_port()}),
             Contains("--master-addr 0.0.0.0") && Contains("--master-key-file"));
  CHECK_THAT(wrong({"--nnodes", "2", "--tensor-parallel-size", "2", "--master-key-file",
                    write_file("c.key", "x\n").string()}),
             Contains("has 1 bytes; use at least 16"));
  CHECK(spillway({"worker", tiny_model().string()}).code == 2);
  CHECK(spillway({"worker", tiny_model().string(), "--node-rank", "0"}).code == 2);
}

}  // namespace spillway::e2e
