// SPDX-License-Identifier: Apache-2.0
#define SPW_VEC_TARGET 0
#include "gpu/host/attention_kernels.inl"

namespace spillway::gpu::host {

const AttentionKernels* attention_kernels_generic() noexcept { return &kKernels; }

}  // namespace spillway::gpu::host
