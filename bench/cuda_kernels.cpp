// SPDX-License-Identifier: Apache-2.0
// Time of each kernel and copy of a program, by name, at its end: a library that the CUDA driver loads into any
// program. CUDA_INJECTION64_PATH=.../libcuda_kernels.so PROGRAM ...
// Kernels that begin under others wait for them within their own time; so there is a second figure, how much later than
// the kernel that ended before it each one ends, which adds up to all the time there was.

#include <cupti.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

namespace {

struct Total {
  std::uint64_t count = 0, ns = 0, later_ns = 0;
};
std::map<std::string, Total> totals;
std::vector<std::pair<std::uint64_t, Total*>> ends;  // of kernels and copies
constexpr std::size_t kBufferBytes = std::size_t{16} << 20;

void CUPTIAPI give_buffer(std::uint8_t** buffer, std::size_t* size, std::size_t* records) {
  *buffer = static_cast<std::uint8_t*>(std::aligned_alloc(8, kBufferBytes));
  *size = kBufferBytes;
  *records = 0;
}

void add(const std::string& name, std::uint64_t begin, std::uint64_t end) {
  Total& total = totals[name];
  ++total.count;
  total.ns += end - begin;
  ends.emplace_back(end, &total);
}

void CUPTIAPI take_buffer(CUcontext, std::uint32_t, std::uint8_t* buffer, std::size_t, std::size_t valid) {
  CUpti_Activity* record = nullptr;
  while (cuptiActivityGetNextRecord(buffer, valid, &record) == CUPTI_SUCCESS) {
    if (record->kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) {
      const auto* kernel = reinterpret_cast<const CUpti_ActivityKernel10*>(record);
      const std::string grid = " [" + std::to_string(kernel->gridX) + "," + std::to_string(kernel->gridY) + "]";
      add((kernel->graphId != 0 ? "graph " : "") + grid + " " + kernel->name, kernel->start, kernel->end);
    } else if (record->kind == CUPTI_ACTIVITY_KIND_MEMCPY) {
      const auto* copy = reinterpret_cast<const CUpti_ActivityMemcpy6*>(record);
      add("copy kind " + std::to_string(copy->copyKind), copy->start, copy->end);
    }
  }
  std::free(buffer);
}

void report() {
  (void)cuptiActivityFlushAll(1);
  std::sort(ends.begin(), ends.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  for (std::size_t i = 1; i < ends.size(); ++i) ends[i].second->later_ns += ends[i].first - ends[i - 1].first;
  std::vector<std::pair<std::string, Total>> sorted(totals.begin(), totals.end());
  std::sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) { return a.second.ns > b.second.ns; });
  for (const auto& [name, total] : sorted) {
    std::fprintf(stderr, "%12.3f ms %8llu x %9.2f us, later by %9.2f us  %.140s\n", static_cast<double>(total.ns) * 1e-6,
                 static_cast<unsigned long long>(total.count),
                 static_cast<double>(total.ns) * 1e-3 / static_cast<double>(total.count),
                 static_cast<double>(total.later_ns) * 1e-3 / static_cast<double>(total.count), name.c_str());
  }
}

}  // namespace

extern "C" __attribute__((visibility("default"))) int InitializeInjection() {
  (void)cuptiActivityRegisterCallbacks(give_buffer, take_buffer);
  (void)cuptiActivityEnable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL);
  (void)cuptiActivityEnable(CUPTI_ACTIVITY_KIND_MEMCPY);
  std::atexit(report);
  return 1;
}
