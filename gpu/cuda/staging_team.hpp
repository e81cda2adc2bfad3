// SPDX-License-Identifier: Apache-2.0
#pragma once

// StagingTeam: threads that bring weights from a mapped file into pinned memory while a model is loaded, as one core alone copies
// at a fifth of what the link takes. They live as long as the load.

#include <algorithm>
#include <barrier>
#include <functional>
#include <thread>
#include <vector>

namespace spillway::gpu::cuda {

class StagingTeam {
 public:
  explicit StagingTeam(unsigned threads) : parts_(std::max(1u, threads)), turn_(static_cast<std::ptrdiff_t>(parts_)) {
    for (unsigned part = 1; part < parts_; ++part) threads_.emplace_back([this, part] { work(part); });
  }
  ~StagingTeam() {
    job_ = nullptr;
    turn_.arrive_and_wait();
  }
  StagingTeam(const StagingTeam&) = delete;
  StagingTeam& operator=(const StagingTeam&) = delete;

  /// Calls job(part, parts) once for each part, on all threads, and returns when all have ended.
  void run(const std::function<void(unsigned part, unsigned parts)>& job) {
    job_ = &job;
    turn_.arrive_and_wait();
    job(0, parts_);
    turn_.arrive_and_wait();
  }

 private:
  void work(unsigned part) {
    while (true) {
      turn_.arrive_and_wait();
      if (job_ == nullptr) return;
      (*job_)(part, parts_);
      turn_.arrive_and_wait();
    }
  }

  const unsigned parts_;
  std::barrier<> turn_;
  const std::function<void(unsigned, unsigned)>* job_ = nullptr;
  std::vector<std::jthread> threads_;
};

}  // namespace spillway::gpu::cuda
