// SPDX-License-Identifier: Apache-2.0
#pragma once

// UploadTeam: threads that bring weights from a mapped file to a GPU while a model is loaded, as one core alone copies at a fifth
// of what the link takes. Each has a stream and two pinned buffers of its own, so that none waits for another. They live
// as long as the load.

#include <cuda_runtime_api.h>

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "gpu/cuda/check_cuda.hpp"

namespace spillway::gpu::cuda {

class UploadTeam {
 public:
  static constexpr std::size_t kBufferBytes = std::size_t{2} << 20;

  /// Where a job brings its bytes: fills `host`, then enqueues the copy to `device`, of the same size, and what is made of it.
  struct Lane {
    char* host = nullptr;    // pinned
    char* device = nullptr;
    cudaStream_t stream = nullptr;
  };
  using Job = std::function<void(const Lane&)>;

  /// For the current device. Errors: kOutOfMemory, kDeviceFailed.
  [[nodiscard]] static Result<std::unique_ptr<UploadTeam>> create(unsigned threads);
  /// Drops what has not begun.
  ~UploadTeam();
  UploadTeam(const UploadTeam&) = delete;
  UploadTeam& operator=(const UploadTeam&) = delete;

  /// Jobs begin in order and may be unfinished side by side.
  void push(Job job);
  [[nodiscard]] std::size_t pushed() const noexcept { return pushed_; }
  /// Waits until the first `count` jobs have returned: what they read is no longer needed.
  void wait(std::size_t count);
  /// Waits for everything, the device's part included. Errors: kDeviceFailed.
  [[nodiscard]] Result<void> finish();

 private:
  struct Buffer {
    Memory host, device;
    cudaEvent_t used = nullptr;
  };
  struct Worker {
    cudaStream_t stream = nullptr;
    Buffer buffers[2];
    std::thread thread;
  };

  UploadTeam() = default;
  void work(Worker& worker);
  /// The next job and its number; false when the team breaks up.
  bool take(Job& job, std::size_t& number);
  void done(std::size_t number);

  int device_ = 0;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::mutex mutex_;
  std::condition_variable came_, ended_;
  std::deque<Job> jobs_;
  std::vector<bool> is_done_;  // by number
  std::size_t pushed_ = 0, taken_ = 0, all_done_ = 0;  // all_done_: so many from the first one on have ended
  bool stops_ = false;
};

}  // namespace spillway::gpu::cuda
