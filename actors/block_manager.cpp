// SPDX-License-Identifier: Apache-2.0
#include "actors/block_manager.hpp"

#include <unordered_map>

namespace spillway::actors {
namespace {

class BlockManager {
 public:
  BlockManager(runtime::Address<BlockManagerMessage> self, BlockManagerConfig config)
      : self_(std::move(self)),
        config_(std::move(config)),
        tables_(BlockPool(config_.num_blocks, config_.block_size, config_.prefix_caching,
                          config_.usual_blocks)) {}

  void handle(AdmitSequence& message) {
    if (message.sparse.on())
      return grant(message.sequence, tables_.admit_sparse(message.prompt_length, message.sparse));
    stats_.prefix_queries_tokens += message.tokens.size();
    grant(message.sequence, tables_.admit(std::move(message.tokens), message.salt));
  }

  void handle(ForkSequence& message) {
    stats_.prefix_queries_tokens += message.tokens.size();
    std::optional<TailCopy> copy;
    const Admission admission = tables_.fork(message.parent, std::move(message.tokens), message.salt, copy);
    ++stats_.forks;
    if (!copy) return grant(message.sequence, admission, true);
    // The lease is granted when the copy is done; until then both blocks are held by the transfer as well.
    tables_.pin(copy->from);
    tables_.pin(copy->to);
    ++stats_.copies;
    const TransferId id{++last_transfer_};
    transfers_.emplace(id, Transfer{message.sequence, admission, *copy});
    TransferBlocks transfer{.transfer = id};
    transfer.plan.blocks.push_back({copy->from, copy->to});
    config_.transfer_engine.post(std::move(transfer));
  }

  void handle(TransferDone& message) {
    auto node = transfers_.extract(message.transfer);
    if (node.empty()) return;
    const Transfer& transfer = node.mapped();
    Admission admission = transfer.admission;
    if (message.failed) admission.cached_tokens = tables_.distrust_tail(admission.lease);
    tables_.unpin(transfer.copy.from);
    tables_.unpin(transfer.copy.to);
    grant(transfer.sequence, admission, true);
  }

  void handle(PrepareStep& message) {
    gpu::StepPlan& plan = message.plan;
    StepPrepared reply{.step = plan.step};
    std::vector<gpu::SequenceStep> granted;
    granted.reserve(plan.sequences.size());
    for (std::size_t i = 0; i < plan.sequences.size(); ++i) {
      gpu::SequenceStep& sequence = plan.sequences[i];
      const LeaseId lease = message.leases[i];
      if (sequence.sparsified()) {
        if (prepare_slots(plan, sequence, lease, message.sequences[i], reply)) {
          granted.push_back(sequence);
        } else {
          reply.denied.push_back(message.sequences[i]);
          ++stats_.denials;
        }
        continue;
      }
      if (!tables_.extend_to(lease, sequence.first_position + sequence.token_count)) {
        reply.denied.push_back(message.sequences[i]);
        ++stats_.denials;
        continue;
      }
      const auto blocks = *tables_.blocks(lease);
      sequence.block_offset = static_cast<std::uint32_t>(plan.block_table.size());
      sequence.block_count = blocks_needed(sequence);
      plan.block_table.insert(plan.block_table.end(), blocks.begin(), blocks.begin() + sequence.block_count);
      granted.push_back(sequence);
    }
    plan.sequences = std::move(granted);
    if (!reply.denied.empty()) close_ranks(plan);
    tables_.free_deferred();
    if (config_.count_slots) count_slots();
    reply.empty = plan.sequences.empty();
    reply.free_blocks = tables_.pool().available();
    const bool empty = reply.empty;
    // First the plan, then the answer: the device starts while the scheduler thinks.
    if (!empty) config_.decoder.post(ExecuteStep{std::move(plan)});
    config_.scheduler.post(std::move(reply));
  }

  void handle(CommitStep& message) {
    bool freed = false;
    for (const CommitStep::Item& item : message.items) {
      tables_.commit(item.lease, item.computed, item.appended);
      tables_.drop_emptied(item.lease, item.emptied);
      stats_.blocks_emptied += item.emptied.size();
      freed = freed || !item.emptied.empty();
    }
    if (freed) config_.scheduler.post(BlocksFreed{tables_.pool().available()});
  }

  void handle(ReleaseLease& message) {
    ++stats_.releases;
    if (!tables_.release(message.lease)) ++stats_.unknown_releases;
    config_.scheduler.post(BlocksFreed{tables_.pool().available()});
  }

  void handle(DescribeBlocks& message) {
    message.client.post(EngineSnapshot{message.tag, std::move(message.stats), tables_.slot_totals(),
                                       message.blocks ? tables_.states() : std::vector<BlockState>{}});
  }

  void after_message() {
    if (config_.stats == nullptr) return;
    stats_.held = tables_.pool().held();
    stats_.total = tables_.pool().total();
    stats_.tables = static_cast<std::uint32_t>(tables_.size());
    if (config_.check_invariants && stats_.broken.empty()) stats_.broken = tables_.check();
    *config_.stats = stats_;
  }

 private:
  struct Transfer {
    SequenceId sequence{};
    Admission admission;
    TailCopy copy;
  };

  [[nodiscard]] std::uint32_t blocks_needed(const gpu::SequenceStep& sequence) const {
    return (sequence.first_position + sequence.token_count + config_.block_size - 1) / config_.block_size;
  }

  /// Takes the tokens of sequences that are no longer there out of the plan.
  static void close_ranks(gpu::StepPlan& plan) {
    std::vector<model::TokenId> tokens;
    for (gpu::SequenceStep& sequence : plan.sequences) {
      const auto first = plan.tokens.begin() + sequence.token_offset;
      sequence.token_offset = static_cast<std::uint32_t>(tokens.size());
      tokens.insert(tokens.end(), first, first + sequence.token_count);
    }
    plan.tokens = std::move(tokens);
  }

  /// Fills in a sparsified sequence's blocks and slots; false when the pool has too few blocks.
  bool prepare_slots(gpu::StepPlan& plan, gpu::SequenceStep& sequence, LeaseId lease, SequenceId id,
                     StepPrepared& reply) {
    const std::optional<SlotGrant> grant =
        tables_.step_slots(lease, sequence.first_position, sequence.token_count);
    if (!grant) return false;
    const auto append = [&plan](const std::vector<gpu::BlockId>& blocks) {
      const auto offset = static_cast<std::uint32_t>(plan.block_table.size());
      plan.block_table.insert(plan.block_table.end(), blocks.begin(), blocks.end());
      return offset;
    };
    const SlotStep& step = grant->step;
    sequence.block_offset = append(grant->blocks);
    sequence.block_count = static_cast<std::uint32_t>(grant->blocks.size());
    gpu::SparseStep& sparse = plan.sparse[sequence.sparse];
    sparse.span = step.span;
    sparse.reuse = step.reuse;
    sparse.evict = step.evict;
    sparse.live = step.after.live;
    sparse.packing = step.packing;
    sparse.copy_block_offset = append(grant->copy_to);
    stats_.slots_reused += step.reuse ? 1 : 0;
    stats_.tokens_evicted += step.evict;
    stats_.compactions += step.packing == gpu::SparseStep::Packing::kInPlace ? 1 : 0;
    stats_.blocks_copied += grant->copy_to.size();
    reply.slots.push_back(
        {id, step.after, static_cast<std::uint32_t>(tables_.blocks(lease)->size()), step.evict});
    return true;
  }

  void count_slots() {
    const SlotTotals totals = tables_.slot_totals();
    stats_.slots = totals.slots;
    stats_.live_tokens = totals.live;
    stats_.holes = totals.holes;
    if (config_.on_slots) config_.on_slots(totals);
  }

  void grant(SequenceId sequence, const Admission& admission, bool forked = false) {
    ++stats_.admissions;
    stats_.prefix_hits_tokens += admission.cached_tokens;
    config_.scheduler.post(
        LeaseGranted{.sequence = sequence,
                     .lease = BlockLease(admission.lease, self_),
                     .cached_tokens = admission.cached_tokens,
                     .blocks = static_cast<std::uint32_t>(tables_.blocks(admission.lease)->size()),
                     .free_blocks = tables_.pool().available(),
                     .forked = forked});
  }

  runtime::Address<BlockManagerMessage> self_;
  BlockManagerConfig config_;
  BlockTables tables_;
  std::unordered_map<TransferId, Transfer> transfers_;
  std::uint64_t last_transfer_ = 0;
  BlockManagerStats stats_;
};

}  // namespace

runtime::Task<void> block_manager(runtime::ActorContext<BlockManagerMessage>& self,
                                  BlockManagerConfig config) {
  BlockManager manager(self.address(), std::move(config));
  manager.after_message();
  while (auto message = co_await self.receive()) {
    std::visit([&](auto& body) { manager.handle(body); },
               static_cast<BlockManagerMessage::variant&>(*message));
    manager.after_message();
  }
}

}  // namespace spillway::actors
