// SPDX-License-Identifier: Apache-2.0
#include "bench/sparse/simulated_run.hpp"

#include <algorithm>
#include <utility>

#include "runtime/sim_executor.hpp"

namespace spillway::bench {
namespace {

runtime::Task<void> client(runtime::ActorContext<actors::ClientMessage>& self,
                           runtime::Address<actors::RouterMessage> router, OfferedLoad* load) {
  actors::Session session(self, std::move(router));
  co_await run_load(session, load);
}

gpu::DeviceOptions device_options(const EngineOptions& set, std::uint32_t max_model_len) {
  return {.kv_dtype = gpu::KvDType::kF16,
          .block_size = set.block_size,
          .kv_cache_memory_bytes = set.kv_cache_memory_bytes,
          .max_num_seqs = set.max_num_seqs,
          .max_num_batched_tokens = std::max(set.max_num_seqs, set.max_num_batched_tokens),
          .max_model_len = max_model_len,
          .max_steps_in_flight = set.async_submit,
          .sparse_kv = set.sparse_kv.on()};
}

}  // namespace

Result<ServedLoad> serve_simulated(const EngineOptions& options, const gpu::TimingProfile& profile,
                                   const std::vector<net::load::Lengths>& lengths, std::uint64_t seed,
                                   OfferedLoad& load) {
  const Result<model::Model> model = model::Model::load(options.model, options.load_format);
  if (!model) return model.error();
  const model::ModelSpec& spec = model->spec();
  std::uint32_t longest = 0;  // the shape's own limit means nothing here: it has no positions
  for (const net::load::Lengths& each : lengths) longest = std::max(longest, each.input + each.output);
  const gpu::DeviceOptions device_set = device_options(options, longest);

  runtime::SimExecutor executor({.seed = seed});
  gpu::SimDevice device(
      device_set, kv_bytes_per_token(spec, device_set.kv_dtype), spec.vocab_size, profile, {},
      {.now_ns = [&] { return runtime::to_ns(executor.now()); },
       .call_at =
           [&](std::int64_t ns, std::function<void()> call) {
             executor.call_at(0, runtime::TimePoint(runtime::Duration(ns)), std::move(call));
           },
       .random = [] { return std::uint64_t{0}; }});
  ServedLoad served{.blocks = device.info().num_blocks, .block_size = options.block_size};
  const actors::Serving serving(executor, {.device = &device,
                                           .device_options = device_set,
                                           .vocab_size = spec.vocab_size,
                                           .max_model_len = longest,
                                           .prefix_caching = options.enable_prefix_caching,
                                           .max_itl_stretch = options.max_itl_stretch,
                                           .sparse_default = options.sparse_kv,
                                           .on_slots = [&served](const actors::SlotTotals& totals) {
                                             if (totals.slots != 0) served.slots.push_back(totals);
                                           }});
  add_requests(lengths, spec.vocab_size, seed, load);
  executor.spawn<actors::ClientMessage>({.name = "client"}, client, serving.router(), &load);
  executor.run_until_idle();
  served.stats = serving.stats();
  executor.shutdown(std::chrono::milliseconds(1));
  return served;
}

}  // namespace spillway::bench
