// SPDX-License-Identifier: Apache-2.0
#include "gpu/host/page_populator.hpp"

#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>

#include <algorithm>

#include "gpu/host/available_memory.hpp"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

namespace spillway::gpu::host {
namespace {

constexpr std::size_t kPiece = std::size_t{2} << 20;
constexpr std::size_t kPiecesPerLook = 16;                 // at the memory that is left
constexpr std::size_t kLeftFree = std::size_t{256} << 20;  // to everybody else

}  // namespace

PagePopulator::PagePopulator(std::byte* data, std::size_t bytes, std::size_t first)
    : bytes_(bytes), target_(whole_pieces(first)), thread_([this, data] { populate(data); }) {}

PagePopulator::~PagePopulator() {
  stopping_.store(true, std::memory_order_relaxed);
  target_.fetch_add(1, std::memory_order_release);  // whatever it was: a change wakes
  target_.notify_one();
  thread_.join();
}

std::size_t PagePopulator::whole_pieces(std::size_t bytes) const noexcept {
  return bytes >= bytes_ ? bytes_ : std::min(bytes_, (bytes + kPiece - 1) / kPiece * kPiece);
}

void PagePopulator::extend_to(std::size_t bytes) noexcept {
  const std::size_t target = whole_pieces(bytes);
  if (target <= target_.load(std::memory_order_relaxed)) return;
  target_.store(target, std::memory_order_release);
  target_.notify_one();
}

void PagePopulator::populate(std::byte* data) noexcept {
  const sched_param none{};
  pthread_setschedparam(pthread_self(), SCHED_IDLE, &none);
  for (std::size_t done = 0;;) {
    const std::size_t target = target_.load(std::memory_order_acquire);
    if (stopping_.load(std::memory_order_relaxed)) break;  // seen by who sees the target that the end leaves
    if (done >= target) {
      populated_.store(done, std::memory_order_release);
      target_.wait(target, std::memory_order_acquire);
      continue;
    }
    if (done / kPiece % kPiecesPerLook == 0 && available_memory_bytes() < kLeftFree + kPiecesPerLook * kPiece)
      break;
    const std::size_t piece = std::min(kPiece, target - done);
    if (madvise(data + done, piece, MADV_POPULATE_WRITE) != 0) break;
    done += piece;
  }
  ended_.store(true, std::memory_order_release);
}

}  // namespace spillway::gpu::host
