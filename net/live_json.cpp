// SPDX-License-Identifier: Apache-2.0
#include "net/live_json.hpp"

#include "net/json_text.hpp"

namespace spillway::net {
namespace {

template <class List>
void append_list(std::string& out, std::string_view name, const List& list) {
  out += ",\"" + std::string(name) + "\":[";
  for (std::size_t i = 0; i < list.size(); ++i) {
    if (i != 0) out += ',';
    if constexpr (std::is_floating_point_v<typename List::value_type>) {
      append_number(out, static_cast<float>(list[i]));
    } else {
      out += std::to_string(list[i]);
    }
  }
  out += ']';
}

void append_slots(std::string& out, const actors::SlotTotals& totals, const actors::BlockManagerStats& stats) {
  out += R"(,"slots":{"held":)" + std::to_string(totals.slots) + R"(,"live":)" + std::to_string(totals.live) +
         R"(,"holes":)" + std::to_string(totals.holes) + R"(,"fragmentation":)";
  append_number(out, static_cast<float>(totals.fragmentation()));
  out += R"(,"evicted":)" + std::to_string(stats.tokens_evicted) + R"(,"reused":)" +
         std::to_string(stats.slots_reused) + R"(,"compactions":)" + std::to_string(stats.compactions) +
         R"(,"blocks_copied":)" + std::to_string(stats.blocks_copied) + "}";
}

}  // namespace

std::string run_lengths(const std::vector<actors::BlockState>& blocks) {
  constexpr char kLetter[] = {'f', 'c', 'h', 's', 'e'};
  std::string out;
  for (std::size_t i = 0; i < blocks.size();) {
    std::size_t end = i;
    while (end < blocks.size() && blocks[end] == blocks[i]) ++end;
    out += std::to_string(end - i) + kLetter[static_cast<std::size_t>(blocks[i])];
    i = end;
  }
  return out;
}

std::string live_json(const actors::EngineSnapshot& snapshot, const Metrics& metrics, std::size_t requests_open) {
  const auto& scheduler = snapshot.stats->scheduler;
  const auto& blocks = snapshot.stats->block_manager;
  std::string out = R"({"type":"live","running":)" + std::to_string(scheduler.running) + R"(,"waiting":)" +
                    std::to_string(scheduler.waiting) + R"(,"requests_open":)" + std::to_string(requests_open) +
                    R"(,"steps":)" + std::to_string(scheduler.steps) + R"(,"prompt_tokens":)" +
                    std::to_string(scheduler.prefill_tokens) + R"(,"generated_tokens":)" +
                    std::to_string(scheduler.decode_tokens) + R"(,"preemptions":)" +
                    std::to_string(scheduler.preemptions) + R"(,"prefix":{"queries":)" +
                    std::to_string(blocks.prefix_queries_tokens) + R"(,"hits":)" +
                    std::to_string(blocks.prefix_hits_tokens) + R"(},"blocks":{"total":)" + std::to_string(blocks.total) +
                    R"(,"held":)" + std::to_string(blocks.held) + R"(,"states":")" + run_lengths(snapshot.blocks) + "\"}";
  append_slots(out, snapshot.slots, blocks);
  append_list(out, "bounds_s", LiveHistogram::kBoundsS);
  append_list(out, "ttft", metrics.ttft().counts);
  append_list(out, "itl", metrics.itl().counts);
  return out + "}";
}

}  // namespace spillway::net
