// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda/upload_team.hpp"

#include <algorithm>
#include <utility>

namespace spillway::gpu::cuda {

Result<std::unique_ptr<UploadTeam>> UploadTeam::create(unsigned threads) {
  std::unique_ptr<UploadTeam> team(new UploadTeam);
  if (Result<void> done = check_cuda(cudaGetDevice(&team->device_), "device"); !done) return done.error();
  for (unsigned i = 0; i < std::max(1u, threads); ++i) {
    Worker& worker = *team->workers_.emplace_back(std::make_unique<Worker>());
    if (Result<void> done = check_cuda(cudaStreamCreateWithFlags(&worker.stream, cudaStreamNonBlocking), "stream"); !done)
      return done.error();
    for (Buffer& buffer : worker.buffers) {
      Result<Memory> host = Memory::pinned(kBufferBytes, "the upload of weights");
      if (!host) return host.error();
      buffer.host = std::move(*host);
      Result<Memory> device = Memory::device(kBufferBytes, "the upload of weights");
      if (!device) return device.error();
      buffer.device = std::move(*device);
      if (Result<void> done = check_cuda(cudaEventCreateWithFlags(&buffer.used, cudaEventDisableTiming), "event"); !done)
        return done.error();
    }
  }
  for (const std::unique_ptr<Worker>& worker : team->workers_)
    worker->thread = std::thread([raw = team.get(), &worker = *worker] { raw->work(worker); });
  return team;
}

UploadTeam::~UploadTeam() {
  {
    const std::lock_guard lock(mutex_);
    stops_ = true;
  }
  came_.notify_all();
  for (const std::unique_ptr<Worker>& worker : workers_) {
    if (worker->thread.joinable()) worker->thread.join();
    if (worker->stream != nullptr) (void)cudaStreamSynchronize(worker->stream);
    for (const Buffer& buffer : worker->buffers)
      if (buffer.used != nullptr) (void)cudaEventDestroy(buffer.used);
    if (worker->stream != nullptr) (void)cudaStreamDestroy(worker->stream);
  }
}

void UploadTeam::push(Job job) {
  {
    const std::lock_guard lock(mutex_);
    jobs_.push_back(std::move(job));
    is_done_.push_back(false);
    ++pushed_;
  }
  came_.notify_one();
}

bool UploadTeam::take(Job& job, std::size_t& number) {
  std::unique_lock lock(mutex_);
  came_.wait(lock, [this] { return stops_ || !jobs_.empty(); });
  if (stops_) return false;
  job = std::move(jobs_.front());
  jobs_.pop_front();
  number = taken_++;
  return true;
}

void UploadTeam::done(std::size_t number) {
  {
    const std::lock_guard lock(mutex_);
    is_done_[number] = true;
    while (all_done_ < is_done_.size() && is_done_[all_done_]) ++all_done_;
  }
  ended_.notify_one();
}

void UploadTeam::work(Worker& worker) {
  (void)cudaSetDevice(device_);
  Job job;
  std::size_t number = 0;
  for (unsigned turn = 0; take(job, number); turn ^= 1) {
    Buffer& buffer = worker.buffers[turn];
    (void)cudaEventSynchronize(buffer.used);
    job({buffer.host.as<char>(), buffer.device.as<char>(), worker.stream});
    (void)cudaEventRecord(buffer.used, worker.stream);
    job = nullptr;
    done(number);
  }
}

void UploadTeam::wait(std::size_t count) {
  std::unique_lock lock(mutex_);
  ended_.wait(lock, [&] { return all_done_ >= count; });
}

Result<void> UploadTeam::finish() {
  wait(pushed_);
  for (const std::unique_ptr<Worker>& worker : workers_)
    if (Result<void> done = check_cuda(cudaStreamSynchronize(worker->stream), "upload of weights"); !done) return done;
  return {};
}

}  // namespace spillway::gpu::cuda
