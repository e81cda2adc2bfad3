// SPDX-License-Identifier: Apache-2.0
#include "actors/serving.hpp"

namespace spillway::actors {

Serving::Serving(runtime::Executor& executor, const ServingConfig& config)
    : stats_(std::make_unique<ServingStats>()) {
  const auto options = [&](const char* name) {
    return runtime::SpawnOptions{.name = name, .worker = config.worker};
  };
  router_ = executor.reserve<RouterMessage>(options("router"));
  // None of the others can be replaced while its peers go on: its death ends what is being served, by name.
  const auto supervised = [&](const char* name) {
    runtime::SpawnOptions spawn = options(name);
    spawn.supervisor = runtime::SupervisorPolicy::stop().notify_to(router_, [](runtime::DeathNotice notice) {
      return EngineLost{{notice.error.code, "the " + notice.actor + " failed: " + notice.error.message}};
    });
    return spawn;
  };
  const auto scheduler_address = executor.reserve<SchedulerMessage>(supervised("scheduler"));
  const auto block_manager_address = executor.reserve<BlockManagerMessage>(supervised("block manager"));
  block_manager_ = block_manager_address;
  const auto transfer_address = executor.reserve<TransferEngineMessage>(supervised("transfer engine"));
  const auto decoder_address = executor.reserve<DecoderMessage>(supervised("decoder"));

  sink_ = std::make_unique<DecoderSink>(decoder_address);
  config.device->set_sink(sink_.get());
  const gpu::DeviceInfo& info = config.device->info();
  const std::uint32_t block_size = config.device_options.block_size;

  executor.start(
      decoder_address, decoder,
      DecoderConfig{
          .device = config.device, .scheduler = scheduler_address, .transfer_engine = transfer_address});
  executor.start(transfer_address, transfer_engine,
                 TransferEngineConfig{.decoder = decoder_address, .block_manager = block_manager_address});
  executor.start(block_manager_address, block_manager,
                 BlockManagerConfig{.num_blocks = info.num_blocks,
                                    .usual_blocks = config.usual_blocks,
                                    .block_size = block_size,
                                    .prefix_caching = config.prefix_caching,
                                    .count_slots = config.device_options.sparse_kv || config.on_slots,
                                    .on_slots = config.on_slots,
                                    .check_invariants = config.check_invariants,
                                    .scheduler = scheduler_address,
                                    .decoder = decoder_address,
                                    .transfer_engine = transfer_address,
                                    .stats = &stats_->block_manager});
  executor.start(scheduler_address, scheduler,
                 SchedulerConfig{.max_num_seqs = config.device_options.max_num_seqs,
                                 .max_num_batched_tokens = config.device_options.max_num_batched_tokens,
                                 .block_size = block_size,
                                 .total_blocks = info.num_blocks,
                                 .max_model_len = config.max_model_len,
                                 .async_submit = config.device_options.max_steps_in_flight,
                                 .max_itl_stretch = config.max_itl_stretch,
                                 .eos_ids = config.eos_ids,
                                 .router = router_,
                                 .block_manager = block_manager_address,
                                 .stats = &stats_->scheduler});
  executor.start(router_, actors::router,
                 RouterConfig{.vocab_size = config.vocab_size,
                              .max_model_len = config.max_model_len,
                              .kv_capacity_tokens = std::uint64_t{info.num_blocks} * block_size,
                              .requests_max = config.requests_max,
                              .tokens_behind_max = config.tokens_behind_max,
                              .sparse_kv = config.device_options.sparse_kv,
                              .sparse_default = config.sparse_default,
                              .rotates_to_cache = info.rotates_to_cache,
                              .sparse_budget_min = config.sparse_budget_min,
                              .stall_limit = config.stall_limit,
                              .tokenizer = config.tokenizer,
                              .scheduler = scheduler_address,
                              .stats = &stats_->router});
}

}  // namespace spillway::actors
