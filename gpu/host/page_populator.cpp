// SPDX-License-Identifier: Apache-2.0
#include "gpu/host/page_populator.hpp"

#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

namespace spillway::gpu::host {
namespace {

constexpr std::size_t kPiece = std::size_t{2} << 20;
constexpr std::size_t kPiecesPerLook = 16;                 // at the memory that is left
constexpr std::size_t kLeftFree = std::size_t{256} << 20;  // to everybody else

/// Bytes that the system can give without swapping; plenty where it does not say.
std::size_t available_memory() {
  std::ifstream file("/proc/meminfo");
  std::string key, unit;
  for (std::size_t kib = 0; file >> key >> kib; std::getline(file, unit)) {
    if (key == "MemAvailable:") return kib << 10;
  }
  return std::numeric_limits<std::size_t>::max();
}

}  // namespace

PagePopulator::PagePopulator(std::byte* data, std::size_t bytes)
    : thread_([this, data, bytes] { populate(data, bytes); }) {}

PagePopulator::~PagePopulator() {
  stopping_.store(true, std::memory_order_relaxed);
  thread_.join();
}

void PagePopulator::populate(std::byte* data, std::size_t bytes) noexcept {
  const sched_param none{};
  pthread_setschedparam(pthread_self(), SCHED_IDLE, &none);
  for (std::size_t done = 0; done < bytes && !stopping_.load(std::memory_order_relaxed); done += kPiece) {
    if (done / kPiece % kPiecesPerLook == 0 && available_memory() < kLeftFree + kPiecesPerLook * kPiece)
      break;
    if (madvise(data + done, std::min(kPiece, bytes - done), MADV_POPULATE_WRITE) != 0) break;
  }
  done_.store(true, std::memory_order_release);
}

}  // namespace spillway::gpu::host
