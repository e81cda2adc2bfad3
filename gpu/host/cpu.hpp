// SPDX-License-Identifier: Apache-2.0
#pragma once

// Which vector instructions the host device may use. Found once at start-up, capped by an option, then passed
// explicitly to whoever packs weights or picks kernels; there is no process-wide state.

#include <cstdint>
#include <string_view>
#include <vector>

#include "runtime/result.hpp"

namespace spillway::gpu::host {

/// In rising order: a machine that has one has all before it.
enum class CpuTarget : std::uint8_t {
  kScalar,      // plain x86-64, the reference
  kAvx2,        // AVX2 + FMA + F16C (AVX-VNNI machines and the first AVX-512 ones too)
  kAvx512Vnni,  // AVX-512 F, BW, DQ, VL and dot products of integers (VNNI)
  kAvx512Bf16,  // and fast bfloat16 dot products: AMD's, and every machine with AMX (where they are slow)
  kAmx,         // and tiles of bytes and of bfloat16
};

[[nodiscard]] std::string_view to_string(CpuTarget target) noexcept;

/// "scalar", "avx2", "avx512vnni", "avx512bf16", "amx". Errors: kInvalidArgument names the choices.
[[nodiscard]] Result<CpuTarget> parse_cpu_target(std::string_view name);

/// The best target that this processor and its operating system support.
[[nodiscard]] CpuTarget detect_cpu_target() noexcept;

/// min(cap, detect_cpu_target()): a cap above the machine is no error.
[[nodiscard]] CpuTarget capped_cpu_target(CpuTarget cap) noexcept;

/// Every target this machine can run, worst first; never empty.
[[nodiscard]] std::vector<CpuTarget> available_cpu_targets();

}  // namespace spillway::gpu::host
