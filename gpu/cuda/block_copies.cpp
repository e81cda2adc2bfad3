// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda/block_copies.hpp"

#include <algorithm>
#include <string>

namespace spillway::gpu::cuda {
namespace {

using Direction = CopyPlan::Direction;

bool reads_host(const CopyPlan& plan) { return plan.direction == Direction::kHostToDevice; }
bool writes_host(const CopyPlan& plan) { return plan.direction == Direction::kDeviceToHost; }

}  // namespace

Result<std::unique_ptr<BlockCopies>> BlockCopies::create(BlockPools pools, bool timed) {
  std::unique_ptr<BlockCopies> copies(new BlockCopies(std::move(pools)));
  for (LastCopies& last : copies->last_of_) {
    last.device.resize(copies->pools_.device_blocks);
    last.host.resize(copies->pools_.host_blocks);
  }
  for (cudaStream_t& stream : copies->streams_)
    if (Result<void> done = check_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream"); !done)
      return done.error();
  for (Events& slot : copies->slots_) {
    if (Result<void> done = check_cuda(cudaEventCreateWithFlags(&slot.end, timed ? 0 : cudaEventDisableTiming), "event"); !done)
      return done.error();
    if (!timed) continue;
    if (Result<void> done = check_cuda(cudaEventCreate(&slot.begin), "event"); !done) return done.error();
  }
  return copies;
}

BlockCopies::~BlockCopies() {
  for (const cudaStream_t stream : streams_)
    if (stream != nullptr) (void)cudaStreamSynchronize(stream);
  for (const Events& slot : slots_) {
    if (slot.begin != nullptr) (void)cudaEventDestroy(slot.begin);
    if (slot.end != nullptr) (void)cudaEventDestroy(slot.end);
  }
  for (const cudaStream_t stream : streams_)
    if (stream != nullptr) (void)cudaStreamDestroy(stream);
}

Result<void> BlockCopies::check(const CopyPlan& plan) const {
  const std::uint32_t from_blocks = reads_host(plan) ? pools_.host_blocks : pools_.device_blocks;
  const std::uint32_t to_blocks = writes_host(plan) ? pools_.host_blocks : pools_.device_blocks;
  for (const CopyPlan::Pair& pair : plan.blocks) {
    const auto from = static_cast<std::uint32_t>(pair.from), to = static_cast<std::uint32_t>(pair.to);
    if (from >= from_blocks || to >= to_blocks) {
      return Error{Errc::kInvalidArgument, "copy of block " + std::to_string(from) + " (of " +
                                               std::to_string(from_blocks) + ") to block " + std::to_string(to) +
                                               " (of " + std::to_string(to_blocks) + ")"};
    }
  }
  if (last_ - done_ >= kCopiesMax)
    return Error{Errc::kQueueFull, std::to_string(kCopiesMax) + " copies are waiting, the most allowed"};
  return {};
}

Ticket BlockCopies::order(const CopyPlan& plan, std::size_t own, Ticket ticket) {
  Ticket before = 0;
  const LastCopies& other = last_of_[1 - own];
  LastCopies& mine = last_of_[own];
  for (const CopyPlan::Pair& pair : plan.blocks) {
    const auto from = static_cast<std::size_t>(pair.from), to = static_cast<std::size_t>(pair.to);
    before = std::max({before, (reads_host(plan) ? other.host : other.device)[from],
                       (writes_host(plan) ? other.host : other.device)[to]});
    (reads_host(plan) ? mine.host : mine.device)[from] = ticket;
    (writes_host(plan) ? mine.host : mine.device)[to] = ticket;
  }
  return before;
}

void BlockCopies::enqueue(const CopyPlan& plan, cudaStream_t stream) const {
  for (std::size_t i = 0; i < plan.blocks.size();) {
    // Neighbours on both sides go as one.
    std::size_t count = 1;
    const auto first_from = static_cast<std::size_t>(plan.blocks[i].from), first_to = static_cast<std::size_t>(plan.blocks[i].to);
    while (i + count < plan.blocks.size() && static_cast<std::size_t>(plan.blocks[i + count].from) == first_from + count &&
           static_cast<std::size_t>(plan.blocks[i + count].to) == first_to + count &&
           plan.direction != Direction::kWithinDevice)
      ++count;
    for (const BlockPart& part : pools_.parts) {
      const char* from = reads_host(plan) ? part.host : part.device;
      char* to = writes_host(plan) ? part.host : part.device;
      from += first_from * part.block_bytes;
      to += first_to * part.block_bytes;
      if (part.rows == 1) {
        (void)cudaMemcpyAsync(to, from, count * part.block_bytes, cudaMemcpyDefault, stream);
      } else {
        (void)cudaMemcpy2DAsync(to, part.block_bytes * (writes_host(plan) ? pools_.host_blocks : pools_.device_blocks), from,
                                part.block_bytes * (reads_host(plan) ? pools_.host_blocks : pools_.device_blocks),
                                count * part.block_bytes, part.rows, cudaMemcpyDefault, stream);
      }
    }
    i += count;
  }
}

Result<Ticket> BlockCopies::copy(const CopyPlan& plan, cudaEvent_t after) {
  if (Result<void> valid = check(plan); !valid) return valid.error();
  const Ticket ticket = ++last_;
  const Events& slot = slots_[ticket % kCopiesMax];
  const std::size_t own = writes_host(plan) ? 1 : 0;
  const cudaStream_t stream = streams_[own];
  if (after != nullptr) (void)cudaStreamWaitEvent(stream, after, 0);
  const Ticket before = order(plan, own, ticket);
  if (before > done_) (void)cudaStreamWaitEvent(stream, events(before).end, 0);
  if (slot.begin != nullptr) (void)cudaEventRecord(slot.begin, stream);
  enqueue(plan, stream);
  (void)cudaEventRecord(slot.end, stream);
  return ticket;
}

void BlockCopies::hold(cudaStream_t stream, Ticket ticket) const {
  // Tickets complete in order, so a copy that is done means those before it, on either stream.
  for (Ticket copy = done_ + 1; copy <= ticket; ++copy) (void)cudaStreamWaitEvent(stream, events(copy).end, 0);
}

}  // namespace spillway::gpu::cuda
