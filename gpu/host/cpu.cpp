// SPDX-License-Identifier: Apache-2.0
#include "gpu/host/cpu.hpp"

#include <cpuid.h>

#include <algorithm>
#include <array>
#include <string>

namespace spillway::gpu::host {

namespace {

constexpr std::array kTargets = {CpuTarget::kScalar, CpuTarget::kAvx2, CpuTarget::kAvx512Vnni};

}  // namespace

std::string_view to_string(CpuTarget target) noexcept {
  switch (target) {
    case CpuTarget::kScalar:
      return "scalar";
    case CpuTarget::kAvx2:
      return "avx2";
    case CpuTarget::kAvx512Vnni:
      return "avx512vnni";
  }
  return "?";
}

Result<CpuTarget> parse_cpu_target(std::string_view name) {
  std::string choices;
  for (CpuTarget target : kTargets) {
    if (name == to_string(target)) return target;
    if (!choices.empty()) choices += ", ";
    choices += to_string(target);
  }
  return Error{Errc::kInvalidArgument, "unknown CPU target '" + std::string(name) + "': one of " + choices};
}

CpuTarget detect_cpu_target() noexcept {
  // __builtin_cpu_supports also asks XGETBV whether the operating system saves the wide registers.
  __builtin_cpu_init();
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  const bool f16c = __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
  if (!f16c || !__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return CpuTarget::kScalar;
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512vnni");
  return avx512 ? CpuTarget::kAvx512Vnni : CpuTarget::kAvx2;
}

CpuTarget capped_cpu_target(CpuTarget cap) noexcept { return std::min(cap, detect_cpu_target()); }

std::vector<CpuTarget> available_cpu_targets() {
  std::vector<CpuTarget> targets;
  for (CpuTarget target : kTargets) {
    if (target <= detect_cpu_target()) targets.push_back(target);
  }
  return targets;
}

}  // namespace spillway::gpu::host
