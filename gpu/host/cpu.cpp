// SPDX-License-Identifier: Apache-2.0
#include "gpu/host/cpu.hpp"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <string>

namespace spillway::gpu::host {

namespace {

constexpr std::array kTargets = {CpuTarget::kScalar, CpuTarget::kAvx2, CpuTarget::kAvx512Vnni,
                                 CpuTarget::kAvx512Bf16, CpuTarget::kAmx};

/// Whether the processor has tiles of bytes and of bfloat16 and the kernel lets this process use them.
bool may_use_amx() {
  constexpr unsigned kTileBf16 = 1u << 22, kTile = 1u << 24, kTileInt8 = 1u << 25, kOsXsave = 1u << 27;
  constexpr std::uint64_t kTileState = 3u << 17;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // arch_prctl(ARCH_REQ_XCOMP_PERM)
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0 || (ecx & kOsXsave) == 0) return false;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return false;
  constexpr unsigned kTiles = kTileBf16 | kTile | kTileInt8;
  if ((edx & kTiles) != kTiles) return false;
  std::uint32_t low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  if ((low & kTileState) != kTileState) return false;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

CpuTarget best_target() {
  // __builtin_cpu_supports also asks XGETBV whether the operating system saves the wide registers.
  __builtin_cpu_init();
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  const bool f16c = __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
  if (!f16c || !__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return CpuTarget::kScalar;
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512vnni");
  if (!avx512) return CpuTarget::kAvx2;
  if (!__builtin_cpu_supports("avx512bf16")) return CpuTarget::kAvx512Vnni;
  if (may_use_amx()) return CpuTarget::kAmx;
  // Intel's dot products of bfloat16 run at a fraction of the rate of its integer ones.
  return __builtin_cpu_is("amd") ? CpuTarget::kAvx512Bf16 : CpuTarget::kAvx512Vnni;
}

}  // namespace

std::string_view to_string(CpuTarget target) noexcept {
  switch (target) {
    case CpuTarget::kScalar:
      return "scalar";
    case CpuTarget::kAvx2:
      return "avx2";
    case CpuTarget::kAvx512Vnni:
      return "avx512vnni";
    case CpuTarget::kAvx512Bf16:
      return "avx512bf16";
    case CpuTarget::kAmx:
      return "amx";
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
  static const CpuTarget best = best_target();
  return best;
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
