// SPDX-License-Identifier: Apache-2.0
// What it costs to send a step's plan to another node, which stands before every step of a model shared by
// several: over loopback, the time to encode and send, and until the other end has decoded it. One JSON line
// a size.

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#include "gpu/plan_wire.hpp"
#include "gpu/ranks/handshake.hpp"

namespace spillway::bench {
namespace {

using namespace gpu;
using ranks::Clock;

constexpr int kRepeats = 2000, kWarm = 200;

/// A decode step of `sequences`, each with `blocks` blocks.
StepPlan decode_step_of(std::uint32_t sequences, std::uint32_t blocks) {
  StepPlan plan;
  for (std::uint32_t i = 0; i < sequences; ++i) {
    SequenceStep s;
    s.row = RowId{i};
    s.first_position = blocks * 16 - 1;
    s.token_count = 1;
    s.token_offset = i;
    s.block_offset = i * blocks;
    s.block_count = blocks;
    s.token_from_row = s.samples = true;
    plan.sequences.push_back(s);
    plan.tokens.push_back(0);
    for (std::uint32_t b = 0; b < blocks; ++b)
      plan.block_table.push_back(BlockId{(i * blocks + b) * 7919 % 8192});
  }
  return plan;
}

double median_us(std::vector<double>& values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}
double us(Clock::duration time) { return std::chrono::duration<double, std::micro>(time).count(); }

int run() {
  Result<std::unique_ptr<ranks::Listener>> listener = ranks::Listener::open("127.0.0.1", 0);
  if (!listener) return std::fprintf(stderr, "%s\n", listener.error().message.c_str()), 1;
  std::atomic<int> decoded{0};
  std::atomic<Clock::time_point> at{};
  std::thread other([&, port = (*listener)->port()] {
    Result<std::unique_ptr<ranks::Link>> link =
        ranks::Link::connect("127.0.0.1", port, Clock::now() + std::chrono::seconds(5));
    if (!link) return;
    (*link)->limit_frames(ranks::kFrameMax);
    while (true) {
      const Result<std::optional<ranks::Frame>> frame = (*link)->receive(std::chrono::milliseconds(0));
      if (!frame || (*frame && (*frame)->kind == static_cast<std::uint8_t>(ranks::Message::kEnd))) return;
      if (!*frame || !decode_step((*frame)->body)) continue;
      at.store(Clock::now());
      decoded.fetch_add(1);
    }
  });
  const std::unique_ptr<ranks::Link> link = (*listener)->accept(std::chrono::seconds(5));
  if (link == nullptr) return 1;
  WireWriter out;
  for (const std::uint32_t blocks : {8u, 64u}) {
    for (const std::uint32_t sequences : {1u, 32u, 256u}) {
      const StepPlan plan = decode_step_of(sequences, blocks);
      std::vector<double> encodes, sends, arrivals;
      for (int i = 0; i < kRepeats; ++i) {
        const int before = decoded.load();
        const Clock::time_point begin = Clock::now();
        out.clear();
        encode(plan, out);
        const Clock::time_point encoded = Clock::now();
        if (!ranks::send_message(*link, ranks::Message::kStep, out.bytes())) return 1;
        const Clock::time_point sent = Clock::now();
        while (decoded.load() == before) {
        }
        if (i < kWarm) continue;
        encodes.push_back(us(encoded - begin));
        sends.push_back(us(sent - begin));
        arrivals.push_back(us(at.load() - begin));
      }
      std::printf(
          "{\"figure\":\"plan\",\"sequences\":%u,\"blocks\":%u,\"bytes\":%zu,\"encode_us\":%.1f,\"encode_"
          "send_us\":%.1f,"
          "\"decoded_us\":%.1f}\n",
          sequences, blocks, out.bytes().size(), median_us(encodes), median_us(sends), median_us(arrivals));
    }
  }
  (void)ranks::send_message(*link, ranks::Message::kEnd);
  other.join();
  return 0;
}

}  // namespace
}  // namespace spillway::bench

int main() { return spillway::bench::run(); }
