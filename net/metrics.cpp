// SPDX-License-Identifier: Apache-2.0
#include "net/metrics.hpp"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <string>
#include <vector>

namespace spillway::net {
namespace {

using prometheus::Counter;
using prometheus::Gauge;
using prometheus::Histogram;
using prometheus::Labels;

const Histogram::BucketBoundaries kTtft = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1,  0.25, 0.5,
                                           0.75,  1.0,   2.5,  5.0,  7.5,  10.0, 20.0, 40.0, 80.0};
const Histogram::BucketBoundaries kItl = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15,
                                          0.2,   0.3,    0.4,   0.5,  0.75,  1.0,  2.5,   5.0, 10.0};
const Histogram::BucketBoundaries kLong = {0.05, 0.1, 0.3, 0.5, 0.8, 1.0,  1.5,  2.0,   2.5,  5.0,
                                           10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0};

double seconds(runtime::Duration duration) { return std::chrono::duration<double>(duration).count(); }

/// One value under our name and, if vLLM has it, under its name.
template <class Metric>
class Pair {
 public:
  void add(Metric& metric) { metrics_.push_back(&metric); }
  template <class Call>
  void each(Call call) {
    for (Metric* metric : metrics_) call(*metric);
  }

 private:
  std::vector<Metric*> metrics_;
};

/// A total that somebody else counts.
void set_total(Pair<Counter>& pair, double total) {
  pair.each([total](Counter& counter) {
    if (total > counter.Value()) counter.Increment(total - counter.Value());
  });
}
void set(Pair<Gauge>& pair, double value) {
  pair.each([value](Gauge& gauge) { gauge.Set(value); });
}
void observe(Pair<Histogram>& pair, double value) {
  pair.each([value](Histogram& histogram) { histogram.Observe(value); });
}

}  // namespace

struct Metrics::State {
  prometheus::Registry registry;
  Labels labels;  // of the vLLM aliases

  Pair<Gauge> running, waiting, kv_usage, blocks_held, blocks_total, connections;
  Pair<Gauge> slots, live_tokens, holes, fragmentation;
  Pair<Counter> slots_reused, tokens_evicted, compactions, blocks_copied;
  Pair<Counter> prompt_tokens, generation_tokens, preemptions, prefix_queries, prefix_hits, steps, recomputed, refused,
      cut, device_failures;
  Pair<Histogram> ttft, itl, e2e, queue, prefill, decode;
  prometheus::Family<Counter>*finished = nullptr, *finished_alias = nullptr, *http = nullptr;

  void make_slots() {
    slots = gauge("spillway_kv_slots", "", "Slots (places for a token) of the KV blocks that sequences hold.");
    live_tokens = gauge("spillway_kv_live_tokens", "", "Tokens in them that are attended to.");
    holes = gauge("spillway_kv_holes", "", "Slots that evicted tokens left and no token has taken yet.");
    fragmentation = gauge("spillway_kv_fragmentation_ratio", "", "Share of the held slots without a token, 0 to 1.");
    slots_reused = counter("spillway_kv_slots_reused_total", "", "Tokens written to the slot of an evicted one.");
    tokens_evicted = counter("spillway_kv_tokens_evicted_total", "", "Tokens evicted, counted once for all KV heads.");
    compactions = counter("spillway_kv_compactions_total", "", "Sequences whose tokens were moved together in place.");
    blocks_copied = counter("spillway_kv_blocks_copied_total", "", "Blocks that survivors were copied to.");
  }
  void set_slots(const actors::SlotTotals& totals, const actors::BlockManagerStats& stats) {
    set(slots, static_cast<double>(totals.slots));
    set(live_tokens, static_cast<double>(totals.live));
    set(holes, static_cast<double>(totals.holes));
    set(fragmentation, totals.fragmentation());
    set_total(slots_reused, static_cast<double>(stats.slots_reused));
    set_total(tokens_evicted, static_cast<double>(stats.tokens_evicted));
    set_total(compactions, static_cast<double>(stats.compactions));
    set_total(blocks_copied, static_cast<double>(stats.blocks_copied));
  }

  void count_end(std::string_view reason) {
    finished->Add({{"reason", std::string(reason)}}).Increment();
    Labels with_reason = labels;
    with_reason.emplace("finished_reason", reason);
    finished_alias->Add(with_reason).Increment();
  }

  Pair<Gauge> gauge(const std::string& own, const std::string& alias, const std::string& help) {
    Pair<Gauge> pair;
    pair.add(prometheus::BuildGauge().Name(own).Help(help).Register(registry).Add({}));
    if (!alias.empty()) pair.add(prometheus::BuildGauge().Name(alias).Help(help).Register(registry).Add(labels));
    return pair;
  }
  Pair<Counter> counter(const std::string& own, const std::string& alias, const std::string& help) {
    Pair<Counter> pair;
    pair.add(prometheus::BuildCounter().Name(own).Help(help).Register(registry).Add({}));
    if (!alias.empty()) pair.add(prometheus::BuildCounter().Name(alias).Help(help).Register(registry).Add(labels));
    return pair;
  }
  Pair<Histogram> histogram(const std::string& own, const std::string& alias, const std::string& help,
                            const Histogram::BucketBoundaries& bounds) {
    Pair<Histogram> pair;
    pair.add(prometheus::BuildHistogram().Name(own).Help(help).Register(registry).Add({}, bounds));
    pair.add(prometheus::BuildHistogram().Name(alias).Help(help).Register(registry).Add(labels, bounds));
    return pair;
  }
};

void LiveHistogram::add(double value) {
  std::size_t bucket = 0;
  while (bucket < kBoundsS.size() && value > kBoundsS[bucket]) ++bucket;
  ++counts[bucket];
}

Metrics::Metrics() : state_(std::make_unique<State>()) {}
Metrics::~Metrics() = default;

void Metrics::name_model(const std::string& name) {
  State& s = *state_;
  s.labels = {{"model_name", name}};
  s.running = s.gauge("spillway_sequences_running", "vllm:num_requests_running", "Sequences that hold KV memory.");
  s.waiting = s.gauge("spillway_sequences_waiting", "vllm:num_requests_waiting", "Sequences that wait for KV memory.");
  s.kv_usage = s.gauge("spillway_kv_cache_usage_ratio", "vllm:kv_cache_usage_perc", "Share of KV blocks held, 0 to 1.");
  s.blocks_held = s.gauge("spillway_kv_blocks_held", "", "KV blocks held by sequences.");
  s.blocks_total = s.gauge("spillway_kv_blocks", "", "KV blocks of the pool.");
  s.make_slots();
  s.connections = s.gauge("spillway_connections", "", "Open client connections.");
  s.prompt_tokens = s.counter("spillway_prompt_tokens_total", "vllm:prompt_tokens_total", "Prompt tokens of ended requests.");
  s.generation_tokens =
      s.counter("spillway_generation_tokens_total", "vllm:generation_tokens_total", "Tokens generated.");
  s.preemptions = s.counter("spillway_preemptions_total", "vllm:num_preemptions_total", "Sequences put back to wait.");
  s.prefix_queries =
      s.counter("spillway_prefix_cache_queries_total", "vllm:prefix_cache_queries_total",
                "Tokens looked up in the prefix cache.");
  s.prefix_hits =
      s.counter("spillway_prefix_cache_hits_total", "vllm:prefix_cache_hits_total", "Tokens found in the prefix cache.");
  s.steps = s.counter("spillway_steps_total", "", "Steps of the device.");
  s.recomputed = s.counter("spillway_recomputed_tokens_total", "", "Positions computed again.");
  s.refused = s.counter("spillway_requests_refused_total", "", "Requests refused because the queue was full.");
  s.cut = s.counter("spillway_requests_cut_total", "", "Requests cut because their client did not read.");
  s.device_failures = s.counter("spillway_failed_steps_total", "", "Steps that the device failed.");
  s.ttft = s.histogram("spillway_time_to_first_token_seconds", "vllm:time_to_first_token_seconds",
                       "From a request's arrival to its first token.", kTtft);
  s.itl = s.histogram("spillway_inter_token_latency_seconds", "vllm:inter_token_latency_seconds",
                      "Between two tokens of a choice.", kItl);
  s.e2e = s.histogram("spillway_e2e_request_latency_seconds", "vllm:e2e_request_latency_seconds",
                      "From a request's arrival to its end.", kLong);
  s.queue = s.histogram("spillway_request_queue_time_seconds", "vllm:request_queue_time_seconds",
                        "From a choice's arrival at the scheduler to its first step.", kLong);
  s.prefill = s.histogram("spillway_request_prefill_time_seconds", "vllm:request_prefill_time_seconds",
                          "From a choice's first step to its first token.", kLong);
  s.decode = s.histogram("spillway_request_decode_time_seconds", "vllm:request_decode_time_seconds",
                         "From a request's first token to its last.", kLong);
  s.finished = &prometheus::BuildCounter()
                    .Name("spillway_requests_total")
                    .Help("Choices that ended, by reason.")
                    .Register(s.registry);
  s.finished_alias = &prometheus::BuildCounter()
                          .Name("vllm:request_success_total")
                          .Help("Choices that ended, by reason.")
                          .Register(s.registry);
  s.http = &prometheus::BuildCounter().Name("spillway_http_responses_total").Help("HTTP answers, by status.").Register(s.registry);
}

void Metrics::count_connection(int change) {
  state_->connections.each([change](Gauge& gauge) { gauge.Increment(change); });
}
void Metrics::count_refused() {
  state_->refused.each([](Counter& counter) { counter.Increment(); });
}
void Metrics::count_http(int status) { state_->http->Add({{"status", std::to_string(status)}}).Increment(); }
void Metrics::observe_ttft(double value) {
  observe(state_->ttft, value);
  ttft_.add(value);
}
void Metrics::observe_itl(double value, std::uint32_t gaps) {
  const double each = value / gaps;
  for (std::uint32_t i = 0; i < gaps; ++i) {
    observe(state_->itl, each);
    itl_.add(each);
  }
}

void Metrics::count_tokens(std::size_t tokens) {
  state_->generation_tokens.each([&](Counter& c) { c.Increment(static_cast<double>(tokens)); });
}
void Metrics::count_abandoned() { state_->count_end("abort"); }

void Metrics::observe_end(double e2e_s, double prefill_s, double decode_s, const actors::Usage& usage,
                          std::string_view reason) {
  observe(state_->e2e, e2e_s);
  observe(state_->queue, seconds(usage.queue_time));
  observe(state_->prefill, prefill_s);
  observe(state_->decode, decode_s);
  state_->prompt_tokens.each([&](Counter& c) { c.Increment(usage.prompt_tokens); });
  state_->count_end(reason);
}

std::string Metrics::text(const actors::EngineSnapshot* snapshot) {
  State& s = *state_;
  if (snapshot != nullptr) {
    const auto& stats = snapshot->stats;
    s.set_slots(snapshot->slots, stats->block_manager);
    set(s.running, stats->scheduler.running);
    set(s.waiting, stats->scheduler.waiting);
    set(s.blocks_held, stats->block_manager.held);
    set(s.blocks_total, stats->block_manager.total);
    if (stats->block_manager.total != 0)
      set(s.kv_usage, static_cast<double>(stats->block_manager.held) / stats->block_manager.total);
    set_total(s.preemptions, static_cast<double>(stats->scheduler.preemptions));
    set_total(s.prefix_queries, static_cast<double>(stats->block_manager.prefix_queries_tokens));
    set_total(s.prefix_hits, static_cast<double>(stats->block_manager.prefix_hits_tokens));
    set_total(s.steps, static_cast<double>(stats->scheduler.steps));
    set_total(s.recomputed, static_cast<double>(stats->scheduler.recomputed_tokens));
    set_total(s.cut, static_cast<double>(stats->router.cut));
    set_total(s.device_failures, static_cast<double>(stats->scheduler.failed_steps));
  }
  return prometheus::TextSerializer().Serialize(s.registry.Collect());
}

void ChoiceClock::on_tokens(Metrics& metrics, std::size_t tokens, runtime::TimePoint now) {
  if (tokens == 0) return;
  metrics.count_tokens(tokens);
  if (first_ == runtime::TimePoint{}) {
    first_ = last_ = now;
    metrics.observe_ttft(seconds(now - arrival_));
    --tokens;
  }
  if (tokens != 0) metrics.observe_itl(seconds(now - last_), static_cast<std::uint32_t>(tokens));
  last_ = now;
}

void ChoiceClock::on_end(Metrics& metrics, const actors::Usage& usage, std::string_view reason,
                         runtime::TimePoint now) {
  ended_ = true;
  const runtime::TimePoint first = first_ == runtime::TimePoint{} ? now : first_;
  const double to_first = seconds(first - arrival_), queued = seconds(usage.queue_time);
  metrics.observe_end(seconds(now - arrival_), to_first > queued ? to_first - queued : 0, seconds(now - first), usage,
                      reason);
}

}  // namespace spillway::net
