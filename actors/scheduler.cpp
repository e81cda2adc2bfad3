// SPDX-License-Identifier: Apache-2.0
#include "actors/scheduler.hpp"

#include <algorithm>
#include <deque>

#include "actors/step_building.hpp"
#include "actors/step_pace.hpp"
#include "runtime/check.hpp"

namespace spillway::actors {
namespace {

class Scheduler {
 public:
  explicit Scheduler(SchedulerConfig config) : config_(std::move(config)), pace_(config_.max_itl_stretch) {
    budget_ = {.max_batched_tokens = config_.max_num_batched_tokens,
               .max_sequences = config_.max_num_seqs,
               .block_size = config_.block_size,
               .total_blocks = config_.total_blocks,
               .free_blocks = config_.total_blocks};
    for (std::uint32_t row = config_.max_num_seqs; row-- > 0;) state_.free_rows.push_back(gpu::RowId{row});
  }

  /// When the mail that is about to be handled was read.
  void set_time(runtime::TimePoint now) { now_ = now; }

  void handle(AddRequest& message) {
    const auto capacity = std::uint64_t{config_.total_blocks} * config_.block_size;
    for (std::uint32_t choice = 0; choice < message.sequences.size(); ++choice) {
      Sequence sequence{.id = message.sequences[choice],
                        .request = message.request,
                        .choice = choice,
                        .arrival = ++arrivals_,
                        .added = now_,
                        .params = message.params,
                        .sparse = message.params.sparse_kv.value_or(model::SparseKvParams{}),
                        .tokens = message.prompt,
                        .salt = message.salt,
                        .prompt_length = static_cast<std::uint32_t>(message.prompt.size()),
                        .length_limit = static_cast<std::uint32_t>(
                            std::min<std::uint64_t>(config_.max_model_len, capacity))};
      ++stats_.sequences_added;
      // The other choices wait for the first one's prompt and fork from it; a sparsified one's blocks are its
      // own.
      if (choice == 0 || sequence.sparsified()) {
        if (!sequence.sparsified())
          sequence.siblings.assign(message.sequences.begin() + 1, message.sequences.end());
        state_.waiting.insert({sequence.arrival, sequence.id});
      }
      state_.sequences.emplace(sequence.id, std::move(sequence));
    }
  }

  void handle(EndSequence& message) {
    if (Sequence* sequence = state_.find(message.sequence)) end(*sequence, message.reason);
  }

  void handle(HoldSequence& message) {
    if (Sequence* sequence = state_.find(message.sequence)) sequence->held = message.held;
  }

  void handle(LeaseGranted& message) {
    if (!message.forked) {
      SPW_CHECK(answers_due_ > 0);
      --answers_due_;
    }
    budget_.free_blocks = message.free_blocks;
    Sequence* sequence = state_.find(message.sequence);
    if (sequence == nullptr) return;  // ended meanwhile; dropping the message drops the lease
    sequence->phase = Sequence::Phase::kRunning;
    sequence->lease = message.lease.id();
    leases_.insert_or_assign(sequence->id, std::move(message.lease));
    sequence->blocks = message.blocks;
    sequence->shared_blocks = message.blocks;
    sequence->slots = {};
    sequence->computed = sequence->committed = message.cached_tokens;
    sequence->told = static_cast<std::uint32_t>(sequence->tokens.size());
    if (sequence->preemptions == 0 && sequence->device_failures == 0) {
      sequence->cached_tokens = std::min(message.cached_tokens, sequence->prompt_length);
    }
  }

  void handle(BlocksFreed& message) { budget_.free_blocks = message.free_blocks; }

  void handle(StepPrepared& message) {
    SPW_CHECK(answers_due_ > 0 && !in_flight_.empty());
    --answers_due_;
    budget_.free_blocks = message.free_blocks;
    for (const StepPrepared::Slots& slots : message.slots) {
      Sequence* sequence = state_.find(slots.sequence);
      if (sequence == nullptr || sequence->phase != Sequence::Phase::kRunning) continue;
      sequence->slots = slots.slots;
      sequence->blocks = slots.blocks;
      sequence->evicted_tokens += slots.evicted;
    }
    for (const SequenceId id : message.denied) deny(message.step, id);
    if (message.empty) forget_step(message.step);
  }

  void handle(StepDone& message) {
    const auto step = std::ranges::find(in_flight_, message.result.step, &StepInFlight::number);
    SPW_CHECK(step != in_flight_.end());
    const StepInFlight done = std::move(*step);
    in_flight_.erase(step);
    ++stats_.steps;
    stats_.device_ns += message.result.device_ns;
    if (message.result.failed) {
      ++stats_.failed_steps;
      for (const Entry& entry : done.entries) lost_step(entry, message.result.message);
    } else {
      apply(done, message.result);
      pace_.measured(done.decodes, done.prompt_tokens, message.result.device_ns);
    }
  }

  /// After all mail is read: hand tokens out, admit, and keep the device busy.
  void advance() {
    if (!produced_.items.empty()) config_.router.post(std::exchange(produced_, {}));
    // In this order: a fork shares what was committed, and a commit or fork must find its lease still there.
    if (!commits_.items.empty()) config_.block_manager.post(BlockManagerMessage{std::exchange(commits_, {})});
    for (ForkSequence& fork : forks_) config_.block_manager.post(BlockManagerMessage{std::move(fork)});
    forks_.clear();
    dropped_.clear();
    for (SequenceEnded& ended : ended_) config_.router.post(std::move(ended));
    ended_.clear();
    if (answers_due_ == 0 && in_flight_.size() < config_.async_submit) {
      admit();
      if (answers_due_ == 0) plan();
    }
    publish_stats();
  }

 private:
  struct Entry {
    SequenceId id{};
    std::uint32_t life = 0;
    std::uint32_t token_count = 0;
    std::uint32_t end_position = 0;
    bool samples = false;
    bool denied = false;
  };
  struct StepInFlight {
    std::uint64_t number = 0;
    std::vector<Entry> entries;
    std::uint32_t decodes = 0;        // entries of one token that follow an answer's last
    std::uint32_t prompt_tokens = 0;  // all others
  };

  // ---- results ----

  void apply(const StepInFlight& done, gpu::StepResult& result) {
    auto sampled = result.tokens.begin();
    std::uint32_t next_index = 0;  // into the sequences that the device ran
    for (const Entry& entry : done.entries) {
      if (entry.denied) continue;
      const std::uint32_t index = next_index++;
      gpu::SampledToken* token = nullptr;
      if (entry.samples) {
        SPW_CHECK(sampled != result.tokens.end());
        token = &*sampled++;
      }
      Sequence* sequence = state_.find(entry.id);
      if (sequence == nullptr) continue;  // it ended while the step ran
      --sequence->steps_in_flight;
      if (sequence->life != entry.life) continue;
      if (token != nullptr) {
        --sequence->sampling;
        append(*sequence, *token);
      }
      if (sequence->phase == Sequence::Phase::kRunning) {
        commit(*sequence, entry.end_position);
        tell_emptied(*sequence, result, index);
      }
      if (token != nullptr || sequence->params.max_tokens == 0) {
        if (sequence->committed >= sequence->prompt_length) fork_siblings(*sequence);
        end_if_complete(*sequence);
      }
    }
  }

  void append(Sequence& sequence, gpu::SampledToken& token) {
    sequence.tokens.push_back(token.token);
    produced_.items.push_back({sequence.id, {token.token, token.logprob, std::move(token.top)}});
  }

  void commit(Sequence& sequence, std::uint32_t end_position) {
    // A preempted sequence's table is gone, and a later admission starts from what it was told.
    if (end_position <= sequence.committed) return;
    sequence.committed = end_position;
    const auto known = static_cast<std::uint32_t>(sequence.tokens.size());
    CommitStep::Item item{.lease = sequence.lease, .computed = std::min(end_position, known)};
    item.appended.assign(sequence.tokens.begin() + sequence.told, sequence.tokens.end());
    sequence.told = known;
    commits_.items.push_back(std::move(item));
  }

  /// `index`: of the sequence in its step as the device ran it.
  void tell_emptied(const Sequence& sequence, const gpu::StepResult& result, std::uint32_t index) {
    if (result.emptied.empty()) return;
    CommitStep::Item item{.lease = sequence.lease};
    for (const gpu::StepResult::Emptied& emptied : result.emptied) {
      if (emptied.sequence_index == index) item.emptied.push_back(emptied.block);
    }
    if (!item.emptied.empty()) commits_.items.push_back(std::move(item));
  }

  void end_if_complete(Sequence& sequence) {
    const auto outputs = static_cast<std::uint32_t>(sequence.tokens.size()) - sequence.prompt_length;
    if (sequence.params.max_tokens == 0) {
      if (sequence.computed >= sequence.prompt_length && sequence.steps_in_flight == 0)
        end(sequence, FinishReason::kLength);
      return;
    }
    if (outputs == 0) return;
    const TokenId last = sequence.tokens.back();
    const bool is_eos =
        !sequence.params.ignore_eos && std::ranges::find(config_.eos_ids, last) != config_.eos_ids.end();
    const auto& stops = sequence.params.stop_token_ids;
    if (is_eos || std::ranges::find(stops, last) != stops.end()) {
      end(sequence, FinishReason::kStop);
    } else if (outputs >= static_cast<std::uint32_t>(sequence.params.max_tokens) ||
               sequence.tokens.size() >= sequence.length_limit) {
      end(sequence, FinishReason::kLength);
    }
  }

  /// Each other choice starts as a copy of the first one's prompt while that is still there; those that find
  /// no row wait in the queue like anybody else.
  void fork_siblings(Sequence& parent) {
    for (const SequenceId id : std::exchange(parent.siblings, {})) {
      Sequence* sibling = state_.find(id);
      if (sibling == nullptr) continue;
      if (parent.phase != Sequence::Phase::kRunning || state_.free_rows.empty()) {
        state_.waiting.insert({sibling->arrival, id});
        continue;
      }
      take_row(*sibling);
      forks_.push_back({id, parent.lease, sibling->tokens, sibling->salt});
      // The copy may take a while and nobody waits for it; count its one block at once.
      if (budget_.free_blocks > 0) --budget_.free_blocks;
    }
  }

  // ---- failures ----

  /// A step that held this sequence did not happen, or not rightly: compute the sequence again from its
  /// tokens.
  void lost_step(const Entry& entry, const std::string& why) {
    Sequence* sequence = state_.find(entry.id);
    if (sequence == nullptr || entry.denied) return;
    --sequence->steps_in_flight;
    if (sequence->life != entry.life) return;
    if (++sequence->device_failures > config_.device_failures_max) {
      fail(*sequence, {Errc::kDeviceFailed, "the device failed " + std::to_string(sequence->device_failures) +
                                                " steps of this request; the last time: " + why});
      return;
    }
    back_to_waiting(*sequence);
    ++sequence->life;  // later steps in flight built on this one
    sequence->sampling = 0;
  }

  void deny(std::uint64_t number, SequenceId id) {
    StepInFlight& step = *std::ranges::find(in_flight_, number, &StepInFlight::number);
    Entry& entry = *std::ranges::find(step.entries, id, &Entry::id);
    entry.denied = true;
    Sequence* sequence = state_.find(id);
    if (sequence == nullptr) return;
    --sequence->steps_in_flight;
    if (sequence->life != entry.life) return;
    sequence->computed -= entry.token_count;
    sequence->blocks = std::min(sequence->blocks, blocks_for(sequence->computed, config_.block_size));
    if (entry.samples) --sequence->sampling;
    preempt(*sequence);  // what was believed free is not: make room
  }

  void forget_step(std::uint64_t number) {
    std::erase_if(in_flight_, [&](const StepInFlight& s) { return s.number == number; });
  }

  // ---- life and death of sequences ----

  void take_row(Sequence& sequence) {
    sequence.row = state_.free_rows.back();
    state_.free_rows.pop_back();
    sequence.row_ready = false;
    sequence.phase = Sequence::Phase::kAdmitting;
    state_.running.insert({sequence.arrival, sequence.id});
  }

  void give_up_memory(Sequence& sequence) {
    if (sequence.phase == Sequence::Phase::kWaiting) return;
    state_.running.erase({sequence.arrival, sequence.id});
    state_.free_rows.push_back(sequence.row);
    if (auto lease = leases_.extract(sequence.id); !lease.empty())
      dropped_.push_back(std::move(lease.mapped()));
    sequence.phase = Sequence::Phase::kWaiting;
    sequence.lease = {};
    sequence.blocks = sequence.shared_blocks = 0;
  }

  void back_to_waiting(Sequence& sequence) {
    const bool held_memory = sequence.phase != Sequence::Phase::kWaiting;
    give_up_memory(sequence);
    if (held_memory) {
      sequence.recomputed_tokens += sequence.computed;
      stats_.recomputed_tokens += sequence.computed;
    }
    sequence.computed = sequence.committed = sequence.told = sequence.evicted_tokens = 0;
    state_.waiting.insert({sequence.arrival, sequence.id});
  }

  void preempt(Sequence& sequence) {
    ++sequence.preemptions;
    ++stats_.preemptions;
    back_to_waiting(sequence);
  }

  [[nodiscard]] SequenceEnded farewell(const Sequence& sequence) const {
    return {
        .sequence = sequence.id,
        .usage = {
            .prompt_tokens = sequence.prompt_length,
            .completion_tokens = static_cast<std::uint32_t>(sequence.tokens.size()) - sequence.prompt_length,
            .cached_tokens = sequence.cached_tokens,
            .preemptions = sequence.preemptions,
            .recomputed_tokens = sequence.recomputed_tokens,
            .sparsified = sequence.sparsified(),
            .evicted_tokens = sequence.evicted_tokens,
            .queue_time =
                (sequence.first_step == runtime::TimePoint{} ? now_ : sequence.first_step) - sequence.added}};
  }

  void end(Sequence& sequence, FinishReason reason) {
    SequenceEnded ended = farewell(sequence);
    ended.reason = reason;
    remove(sequence, std::move(ended));
  }

  void fail(Sequence& sequence, Error error) {
    SequenceEnded ended = farewell(sequence);
    ended.failed = true;
    ended.error = std::move(error);
    remove(sequence, std::move(ended));
  }

  // Steps in flight may still write to the blocks; the device runs in order, so whoever gets them next comes
  // later.
  void remove(Sequence& sequence, SequenceEnded ended) {
    for (const SequenceId id : std::exchange(sequence.siblings, {})) {
      if (Sequence* sibling = state_.find(id)) state_.waiting.insert({sibling->arrival, id});
    }
    give_up_memory(sequence);
    state_.waiting.erase({sequence.arrival, sequence.id});
    ended_.push_back(std::move(ended));
    ++stats_.sequences_ended;
    state_.sequences.erase(sequence.id);
  }

  // ---- planning ----

  void admit() {
    const std::vector<SequenceId> chosen = choose_admissions(state_, budget_);
    if (chosen.empty()) make_room();
    for (const SequenceId id : chosen) {
      Sequence& sequence = state_.at(id);
      state_.waiting.erase({sequence.arrival, id});
      take_row(sequence);
      ++answers_due_;
      config_.block_manager.post(BlockManagerMessage{
          AdmitSequence{id, sequence.tokens, sequence.salt, sequence.prompt_length, sequence.sparse}});
    }
  }

  /// Somebody waits who would run at once: a sequence whose client does not read gives its place up.
  void make_room() {
    const auto waits = [&](const SchedulerState::Place& place) { return !state_.at(place.second).held; };
    if (std::ranges::none_of(state_.waiting, waits)) return;
    for (auto place = state_.running.rbegin(); place != state_.running.rend(); ++place) {
      Sequence& sequence = state_.at(place->second);
      if (sequence.held && sequence.phase == Sequence::Phase::kRunning && sequence.steps_in_flight == 0) {
        preempt(sequence);
        dropped_.clear();  // BlocksFreed comes back and the next turn admits
        return;
      }
    }
  }

  void plan() {
    const auto [decodes, prompts] = demand(state_);
    budget_.max_prompt_tokens = pace_.prompt_tokens(decodes, prompts);
    const StepDecision decision = plan_step(state_, budget_);
    for (const SequenceId id : decision.preempt) preempt(state_.at(id));
    dropped_.clear();  // the releases must reach the block manager before the step does
    if (decision.sequences.empty()) return;

    PrepareStep message;
    message.plan.step = ++steps_planned_;
    StepInFlight in_flight{.number = message.plan.step};
    for (const PlannedSequence& planned : decision.sequences) {
      Sequence& sequence = state_.at(planned.id);
      add_to_step(sequence, planned, message.plan);
      sequence.row_ready = true;
      message.sequences.push_back(planned.id);
      message.leases.push_back(sequence.lease);
      const std::uint32_t end_position = planned.first_position + planned.token_count;
      if (sequence.decodes()) {
        ++in_flight.decodes;
      } else {
        in_flight.prompt_tokens += planned.token_count;
      }
      in_flight.entries.push_back(
          {planned.id, sequence.life, planned.token_count, end_position, planned.samples, false});
      (planned.samples && planned.token_count == 1 ? stats_.decode_tokens : stats_.prefill_tokens) +=
          planned.token_count;
      if (sequence.first_step == runtime::TimePoint{}) sequence.first_step = now_;
      sequence.computed = end_position;
      if (!sequence.sparsified())
        sequence.blocks = std::max(sequence.blocks, blocks_for(end_position, config_.block_size));
      sequence.sampling += planned.samples ? 1 : 0;
      ++sequence.steps_in_flight;
    }
    in_flight_.push_back(std::move(in_flight));
    ++answers_due_;
    config_.block_manager.post(BlockManagerMessage{std::move(message)});
  }

  void publish_stats() {
    stats_.running = static_cast<std::uint32_t>(state_.running.size());
    stats_.waiting = static_cast<std::uint32_t>(state_.sequences.size() - state_.running.size());
    stats_.running_peak = std::max(stats_.running_peak, stats_.running);
    if (config_.stats != nullptr) *config_.stats = stats_;
  }

  SchedulerConfig config_;
  SchedulerState state_;
  Budget budget_;
  StepPace pace_;
  std::unordered_map<SequenceId, BlockLease> leases_;
  std::deque<StepInFlight> in_flight_;
  std::uint32_t answers_due_ = 0;  // of the block manager
  std::uint64_t arrivals_ = 0, steps_planned_ = 0;
  runtime::TimePoint now_{};

  // What this turn's mail has led to; sent by advance() in this order.
  TokensProduced produced_;
  CommitStep commits_;
  std::vector<ForkSequence> forks_;
  std::vector<BlockLease> dropped_;
  std::vector<SequenceEnded> ended_;
  SchedulerStats stats_;
};

}  // namespace

runtime::Task<void> scheduler(runtime::ActorContext<SchedulerMessage>& self, SchedulerConfig config) {
  Scheduler scheduler(std::move(config));
  while (auto message = co_await self.receive()) {
    scheduler.set_time(self.now());
    do {
      std::visit([&](auto& body) { scheduler.handle(body); }, *message);
      message = self.try_receive();
    } while (message);
    scheduler.advance();
  }
}

}  // namespace spillway::actors
