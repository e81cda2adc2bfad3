// SPDX-License-Identifier: Apache-2.0
#include "bench/sparse/offered_load.hpp"

#include <map>
#include <utility>

#include "runtime/random.hpp"

namespace spillway::bench {

void add_requests(const std::vector<net::load::Lengths>& lengths, std::int32_t vocabulary, std::uint64_t seed,
                  OfferedLoad& load) {
  constexpr std::uint64_t kFirstId = 3;  // the special ones are below
  runtime::Random random(seed);
  for (const net::load::Lengths& each : lengths) {
    actors::GenerationRequest request;
    for (std::uint32_t i = 0; i < each.input; ++i) {
      request.prompt.push_back(static_cast<model::TokenId>(
          kFirstId + random.below(static_cast<std::uint64_t>(vocabulary) - kFirstId)));
    }
    request.params.max_tokens = static_cast<std::int32_t>(each.output);
    request.params.temperature = 0;
    request.params.ignore_eos = true;
    load.requests.push_back(std::move(request));
  }
  load.times.resize(lengths.size());
  load.sent.resize(lengths.size());
}

runtime::Task<void> run_load(actors::Session& session, OfferedLoad* load) {
  std::map<actors::StreamTag, std::size_t> request_of;
  std::vector<actors::Stream> streams;
  std::size_t done = 0;
  const std::size_t total = load->requests.size();
  load->began = session.now();
  while (done < total && !load->error) {
    while (streams.size() < total && streams.size() - done < load->at_once) {
      const std::size_t next = streams.size();
      load->sent[next] = session.now();
      Result<actors::Stream> stream = co_await session.generate(load->requests[next]);
      if (!stream) {
        load->error = stream.error();
        co_return;
      }
      request_of[stream->tag()] = next;
      streams.push_back(std::move(*stream));
    }
    auto event = co_await session.next_event();
    if (!event) break;
    auto& [tag, what] = *event;
    if (const auto* delta = std::get_if<actors::ChoiceDelta>(&what)) {
      auto& times = load->times[request_of[tag]];
      times.insert(times.end(), delta->tokens.size(), session.now());
    } else if (const auto* failed = std::get_if<actors::ChoiceFailed>(&what)) {
      load->error = failed->error;
    } else if (std::holds_alternative<actors::RequestDone>(what)) {
      ++done;
      if (load->on_progress) load->on_progress(done, total);
    }
  }
  load->ended = session.now();
}

}  // namespace spillway::bench
