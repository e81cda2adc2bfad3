// SPDX-License-Identifier: Apache-2.0
#include "gpu/host/rows_kernels.hpp"

namespace spillway::gpu::host {

const RowKernels& row_kernels(CpuTarget target) noexcept {
  switch (target) {
    case CpuTarget::kScalar:
      return *row_kernels_generic();
    case CpuTarget::kAvx2:
      return *row_kernels_avx2();
    default:
      return *row_kernels_avx512();
  }
}

}  // namespace spillway::gpu::host
