// SPDX-License-Identifier: Apache-2.0
#pragma once

// The whole protocol of the serving actors, grouped by receiver. A request's way through the house:
//
//   client -> router -> scheduler -> block manager -> decoder(device) -> scheduler     (loop, one turn a
//   step)
//                                        |                                   |
//                                        |                                   +--> router -> client   (tokens
//                                        out)
//                                        +--> transfer engine -> decoder -> transfer engine -> block manager
//                                                                                                    (copy
//                                                                                                    done)
// Cancel follows the same way; memory comes back only by lease.
//
// Messages are movable values: ids, plain data, leases. Each has one receiver and one meaning.

#include <concepts>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "actors/block_lease.hpp"
#include "actors/block_state.hpp"
#include "actors/ids.hpp"
#include "actors/prefix_hash.hpp"
#include "actors/slot_count.hpp"
#include "gpu/step_plan.hpp"
#include "model/sampling_params.hpp"
#include "runtime/actor.hpp"
#include "runtime/result.hpp"

namespace spillway::actors {

using gpu::TokenId;

enum class FinishReason : std::uint8_t { kStop, kLength, kCancelled };

/// What one choice cost, told with its end.
struct Usage {
  std::uint32_t prompt_tokens = 0;
  std::uint32_t completion_tokens = 0;
  std::uint32_t cached_tokens = 0;  // of the prompt, found in the prefix cache
  std::uint32_t preemptions = 0;
  std::uint32_t recomputed_tokens = 0;  // positions computed again after a preemption or a device failure
  bool sparsified = false;              // it kept a budget of tokens
  std::uint32_t evicted_tokens = 0;     // by sparsification, of each KV head; over 0: the output is not exact
  runtime::Duration queue_time{};       // from its arrival at the scheduler to its first step, or to its end
};

struct TokenInfo {
  TokenId token = 0;
  float logprob = 0;
  std::vector<gpu::TokenLogprob> top;  // empty unless asked for
};

// ---- to a client (any actor that submits requests); `tag` is the client's own number for the request
// ----------

/// New text and tokens of one choice. Costs one credit.
struct ChoiceDelta {
  std::uint64_t tag = 0;
  std::uint32_t choice = 0;
  std::string text;               // whole characters; may be empty
  std::vector<TokenInfo> tokens;  // may be empty when held-back text comes last
};
struct ChoiceFinished {
  std::uint64_t tag = 0;
  std::uint32_t choice = 0;
  FinishReason reason = FinishReason::kStop;
  Usage usage;
};
/// A choice ended by a failure; the others go on.
struct ChoiceFailed {
  std::uint64_t tag = 0;
  std::uint32_t choice = 0;
  Error error;
  Usage usage;
};
/// All choices have ended. The last message of its tag.
struct RequestDone {
  std::uint64_t tag = 0;
};
/// From whoever runs the client: cancel everything that is open.
struct StopSession {
  std::uint64_t tag = 0;  // none
};
/// For a client that asked with reply_to: the answer to its SubmitRequest, before all events of the tag.
struct RequestAnswered {
  std::uint64_t tag = 0;
  Result<RequestId> id;
};
struct ServingStats;  // actors/serving.hpp
/// The engine at one moment; answers DescribeBlocks.
struct EngineSnapshot {
  std::uint64_t tag = 0;
  std::shared_ptr<const ServingStats> stats;  // a copy of its own
  SlotTotals slots;                           // of all tables
  std::vector<BlockState> blocks;             // by block id; empty unless asked for
};
using ClientMessage = std::variant<ChoiceDelta, ChoiceFinished, ChoiceFailed, RequestDone, StopSession,
                                   RequestAnswered, EngineSnapshot>;
using ClientAddress = runtime::Address<ClientMessage>;

// ---- to the router
// --------------------------------------------------------------------------------------------

/// Answered with the id that CancelRequest and GrantCredits take, or with why the request will not run.
/// Events to the client follow the answer.
struct SubmitRequest {
  runtime::Reply<RequestId> reply;
  std::uint64_t tag = 0;
  ClientAddress client;
  std::vector<TokenId> prompt;
  model::SamplingParams params;
  std::uint32_t credits = 64;  // deltas the client takes before it grants more
  PrefixHash salt;             // prompts share KV only under the same salt
};
/// Ends every choice; the client still gets ChoiceFinished (kCancelled) and RequestDone.
struct CancelRequest {
  RequestId id{};
};
struct GrantCredits {
  RequestId id{};
  std::uint32_t credits = 0;
};
/// From the scheduler, one message a step.
struct TokensProduced {
  struct Item {
    SequenceId sequence{};
    TokenInfo token;
  };
  std::vector<Item> items;
};
/// From the scheduler: the sequence is over, whoever ended it. Its memory is on its way back.
struct SequenceEnded {
  SequenceId sequence{};
  FinishReason reason = FinishReason::kStop;
  bool failed = false;
  Error error;  // when failed
  Usage usage;
};
/// A client has not taken a delta for too long (the router's own timer).
struct StallCheck {
  RequestId id{};
  std::uint64_t deltas_sent = 0;  // as it was when the timer was set
};
/// One of the actors behind the router died: nothing more can be served.
struct EngineLost {
  Error error;
};
using RouterMessage = std::variant<SubmitRequest, CancelRequest, GrantCredits, TokensProduced, SequenceEnded,
                                   StallCheck, EngineLost>;

// ---- to the scheduler
// -----------------------------------------------------------------------------------------

/// The choices of one request; sequences[j] is choice j.
struct AddRequest {
  RequestId request{};
  std::vector<SequenceId> sequences;
  std::vector<TokenId> prompt;
  model::SamplingParams params;
  PrefixHash salt;
};
/// The router wants no more of it: a stop string was found, or the client went away.
struct EndSequence {
  SequenceId sequence{};
  FinishReason reason = FinishReason::kCancelled;
};
/// The client has stopped taking tokens (held) or takes them again.
struct HoldSequence {
  SequenceId sequence{};
  bool held = false;
};
/// From the block manager: a lease on KV memory whose first cached_tokens positions are valid.
struct LeaseGranted {
  SequenceId sequence{};
  BlockLease lease;
  std::uint32_t cached_tokens = 0;
  std::uint32_t blocks = 0;
  std::uint32_t free_blocks = 0;
  bool forked = false;  // answers a ForkSequence
};
/// From the block manager, after a release: blocks may be free now.
struct BlocksFreed {
  std::uint32_t free_blocks = 0;
};
/// From the block manager: the step is on its way to the decoder, without the sequences in `denied`.
struct StepPrepared {
  std::uint64_t step = 0;
  std::vector<SequenceId> denied;
  struct Slots {
    SequenceId sequence{};
    SlotCount slots;  // after the step
    std::uint32_t blocks = 0;
    std::uint32_t evicted = 0;
  };
  std::vector<Slots> slots;  // of the sparsified sequences in it
  bool empty = false;        // nothing was left of it: no StepDone will come
  std::uint32_t free_blocks = 0;
};
/// From the decoder.
struct StepDone {
  gpu::StepResult result;
};
using SchedulerMessage =
    std::variant<AddRequest, EndSequence, HoldSequence, LeaseGranted, BlocksFreed, StepPrepared, StepDone>;

// ---- to the block manager
// -------------------------------------------------------------------------------------

struct AdmitSequence {
  SequenceId sequence{};
  std::vector<TokenId> tokens;
  PrefixHash salt;
  std::uint32_t prompt_length = 0;  // tokens
  model::SparseKvParams sparse;
};
/// Admission of a sequence that starts as a copy of `parent`.
struct ForkSequence {
  SequenceId sequence{};
  LeaseId parent{};
  std::vector<TokenId> tokens;
  PrefixHash salt;
};
/// One step as the scheduler planned it; the block manager fills in the block tables and passes it on.
struct PrepareStep {
  gpu::StepPlan plan;                 // block_table empty
  std::vector<SequenceId> sequences;  // of plan.sequences, in order
  std::vector<LeaseId> leases;        // of plan.sequences, in order
};
/// The step is done: these positions hold valid KV.
struct CommitStep {
  struct Item {
    LeaseId lease{};
    std::uint32_t computed = 0;
    std::vector<TokenId> appended;      // tokens the block manager has not been told yet
    std::vector<gpu::BlockId> emptied;  // blocks without live tokens, as the device reported
  };
  std::vector<Item> items;
};
/// Sent by a dropped BlockLease.
struct ReleaseLease {
  LeaseId lease{};
};
struct TransferDone {
  TransferId transfer{};
  bool failed = false;
};
/// Asks for an EngineSnapshot.
struct DescribeBlocks {
  std::uint64_t tag = 0;
  ClientAddress client;
  std::shared_ptr<const ServingStats> stats;
  bool blocks = false;  // with the state of every block
};
struct BlockManagerMessage : std::variant<AdmitSequence, ForkSequence, PrepareStep, CommitStep, ReleaseLease,
                                          TransferDone, DescribeBlocks> {
  using variant::variant;
};
/// For traces: the name of what is inside. A template, because each of its messages converts to the variant.
template <std::same_as<BlockManagerMessage> M>
[[nodiscard]] std::string_view message_name(const M& message) {
  return runtime::name_of(static_cast<const BlockManagerMessage::variant&>(message));
}

// ---- to the transfer engine
// -----------------------------------------------------------------------------------

struct TransferBlocks {
  TransferId transfer{};
  gpu::CopyPlan plan;
};
/// From the decoder: the device finished, or refused, the copy.
struct CopyDone {
  TransferId transfer{};
  bool failed = false;
};
using TransferEngineMessage = std::variant<TransferBlocks, CopyDone>;

// ---- to a decoder
// ---------------------------------------------------------------------------------------------

struct ExecuteStep {
  gpu::StepPlan plan;
};
struct ExecuteCopy {
  TransferId transfer{};
  gpu::CopyPlan plan;
};
/// Posted by the device's completion sink.
struct StepCompleted {
  gpu::Ticket ticket = 0;
};
struct CopyCompleted {
  gpu::Ticket ticket = 0;
};
using DecoderMessage = std::variant<ExecuteStep, ExecuteCopy, StepCompleted, CopyCompleted>;

}  // namespace spillway::actors
