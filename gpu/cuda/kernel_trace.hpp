// SPDX-License-Identifier: Apache-2.0
#pragma once

// KernelTrace: when each kernel of this process ran, also those inside graphs, by CUPTI, which is loaded at run time. The time
// is the steady clock's. Costs some microseconds a kernel: for looking, not for serving. One at a time in a process.

#include <cstdint>
#include <functional>
#include <memory>

#include "runtime/result.hpp"

namespace spillway::gpu::cuda {

class KernelTrace {
 public:
  using OnSpan = std::function<void(const char* name, std::int64_t begin_ns, std::int64_t end_ns)>;

  /// Before the first kernel of interest. Errors: kUnsupported when CUPTI is missing or in use.
  [[nodiscard]] static Result<std::unique_ptr<KernelTrace>> start();
  ~KernelTrace();
  KernelTrace(const KernelTrace&) = delete;
  KernelTrace& operator=(const KernelTrace&) = delete;

  /// Tells the kernels that were reported since the last call; they come some 100 ms late.
  void drain(const OnSpan& on_span);
  /// Waits for what is still unreported, and tells it.
  void finish(const OnSpan& on_span);

 private:
  KernelTrace() = default;
};

}  // namespace spillway::gpu::cuda
