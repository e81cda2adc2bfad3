// SPDX-License-Identifier: Apache-2.0
#define SPW_VEC_TARGET 2
#include "gpu/host/rows_kernels.inl"

namespace spillway::gpu::host {

const RowKernels* row_kernels_avx512() noexcept { return &kKernels; }

}  // namespace spillway::gpu::host
