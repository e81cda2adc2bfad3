// SPDX-License-Identifier: Apache-2.0
#pragma once

// Products of a warpgroup on compute capability 9.0a: both operands in shared memory, rows of 64 elements (128 bytes) of
// 16 bits with the 128-byte swizzle that tensor copies write, every operand at a multiple of 1024 bytes.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace spillway::gpu::cuda {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// What wgmma is told of an operand: groups of 8 rows lie `group_bytes` apart. Of an operand that is read turned, whose rows
/// are the dimension summed over, each next 64 columns lie `columns_bytes` apart; of the others that counts for nothing.
__device__ __forceinline__ std::uint64_t operand_at(unsigned shared_address, int columns_bytes = 16, int group_bytes = 1024) {
  return std::uint64_t{(shared_address & 0x3ffffu) >> 4} | static_cast<std::uint64_t>(columns_bytes >> 4) << 16 |
         static_cast<std::uint64_t>(group_bytes >> 4) << 32 | std::uint64_t{1} << 62;
}

/// By every warpgroup of a kernel whose threads are bounded: registers a thread, in multiples of 8.
template <int kCount>
__device__ __forceinline__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(kCount));
}
template <int kCount>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(kCount));
}

/// Barriers 1 to 15 of a block, each of as many threads as are told: those that wait, and those that only come by.
__device__ __forceinline__ void meet(int barrier, int threads) {
  asm volatile("bar.sync %0, %1;\n" ::"r"(barrier), "r"(threads) : "memory");
}
__device__ __forceinline__ void come_by(int barrier, int threads) {
  asm volatile("bar.arrive %0, %1;\n" ::"r"(barrier), "r"(threads) : "memory");
}

/// This thread's writes to shared memory are seen by products and copies behind the next barrier.
__device__ __forceinline__ void show_to_copies() { asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory"); }

__device__ __forceinline__ void begin_products() { asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory"); }
__device__ __forceinline__ void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory"); }
/// Until at most so many committed groups are under way.
template <int kLeft>
__device__ __forceinline__ void wait_for_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(kLeft) : "memory");
}

/// After a wait: the values are read from here on, not before.
template <int kCount>
__device__ __forceinline__ void hold(float (&values)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(values[i])::"memory");
}

/// c [64, kCols] (+)= a [64, 16] * b [kCols, 16]^T. A lane's values of c lie as mma's do: of each 8 columns two in row
/// lane / 4 of its warp's 16, two 8 rows below.
template <class T, int kCols>
struct WarpgroupProduct;

/// c [64, kCols] += a [64, 16] * b [16, kCols], with a in registers, a lane's four words as mma's, and b read turned.
template <class T, int kCols>
struct WarpgroupProductTurned;

#define SPW_REGS_8(c, i) \
  "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3]), "+f"(c[i + 4]), "+f"(c[i + 5]), "+f"(c[i + 6]), "+f"(c[i + 7])
#define SPW_REGS_16(c, i) SPW_REGS_8(c, i), SPW_REGS_8(c, i + 8)
#define SPW_REGS_32(c) SPW_REGS_16(c, 0), SPW_REGS_16(c, 16)
#define SPW_REGS_48(c) SPW_REGS_32(c), SPW_REGS_16(c, 32)
#define SPW_REGS_64(c) SPW_REGS_48(c), SPW_REGS_16(c, 48)

#define SPW_NAMES_16 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define SPW_NAMES_32 SPW_NAMES_16 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define SPW_NAMES_44 SPW_NAMES_32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43"
#define SPW_NAMES_48 SPW_NAMES_44 ",%44,%45,%46,%47"
#define SPW_NAMES_56 SPW_NAMES_48 ",%48,%49,%50,%51,%52,%53,%54,%55"
#define SPW_NAMES_64 SPW_NAMES_56 ",%56,%57,%58,%59,%60,%61,%62,%63"

#define SPW_WARPGROUP_PRODUCT(Type, type, cols, registers, names, a_at, b_at, more_at, ...)                          \
  template <>                                                                                                       \
  struct WarpgroupProduct<Type, cols> {                                                                             \
    static __device__ __forceinline__ void add(float (&c)[registers], std::uint64_t a, std::uint64_t b, bool more) { \
      asm volatile("{\n.reg .pred more;\nsetp.ne.b32 more, " more_at ", 0;\n"                                       \
                   "wgmma.mma_async.sync.aligned.m64n" #cols "k16.f32." type "." type " {" names "}, " a_at ", " b_at \
                   ", more, 1, 1, 0, 0;\n}\n"                                                                       \
                   : __VA_ARGS__                                                                                    \
                   : "l"(a), "l"(b), "r"(static_cast<int>(more)));                                                  \
    }                                                                                                               \
  };
#define SPW_WARPGROUP_PRODUCTS(Type, type)                                                                          \
  SPW_WARPGROUP_PRODUCT(Type, type, 32, 16, SPW_NAMES_16, "%16", "%17", "%18", SPW_REGS_16(c, 0))                   \
  SPW_WARPGROUP_PRODUCT(Type, type, 64, 32, SPW_NAMES_32, "%32", "%33", "%34", SPW_REGS_32(c))                      \
  SPW_WARPGROUP_PRODUCT(Type, type, 88, 44, SPW_NAMES_44, "%44", "%45", "%46", SPW_REGS_32(c), SPW_REGS_8(c, 32),   \
                        "+f"(c[40]), "+f"(c[41]), "+f"(c[42]), "+f"(c[43]))                                         \
  SPW_WARPGROUP_PRODUCT(Type, type, 96, 48, SPW_NAMES_48, "%48", "%49", "%50", SPW_REGS_48(c))                      \
  SPW_WARPGROUP_PRODUCT(Type, type, 112, 56, SPW_NAMES_56, "%56", "%57", "%58", SPW_REGS_48(c), SPW_REGS_8(c, 48))  \
  SPW_WARPGROUP_PRODUCT(Type, type, 128, 64, SPW_NAMES_64, "%64", "%65", "%66", SPW_REGS_64(c))

SPW_WARPGROUP_PRODUCTS(__nv_bfloat16, "bf16")
SPW_WARPGROUP_PRODUCTS(__half, "f16")

#define SPW_WARPGROUP_TURNED(Type, type, cols, registers, names, a_at, b_at, ...)                                        \
  template <>                                                                                                            \
  struct WarpgroupProductTurned<Type, cols> {                                                                            \
    static __device__ __forceinline__ void add(float (&c)[registers], const unsigned (&a)[4], std::uint64_t b) {         \
      asm volatile("wgmma.mma_async.sync.aligned.m64n" #cols "k16.f32." type "." type " {" names "}, {" a_at "}, " b_at \
                   ", 1, 1, 1, 1;\n"                                                                                     \
                   : __VA_ARGS__                                                                                         \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                                                \
    }                                                                                                                    \
  };
#define SPW_WARPGROUP_TURNED_ALL(Type, type)                                                                   \
  SPW_WARPGROUP_TURNED(Type, type, 64, 32, SPW_NAMES_32, "%32,%33,%34,%35", "%36", SPW_REGS_32(c))             \
  SPW_WARPGROUP_TURNED(Type, type, 128, 64, SPW_NAMES_64, "%64,%65,%66,%67", "%68", SPW_REGS_64(c))

SPW_WARPGROUP_TURNED_ALL(__nv_bfloat16, "bf16")
SPW_WARPGROUP_TURNED_ALL(__half, "f16")

#undef SPW_WARPGROUP_TURNED_ALL
#undef SPW_WARPGROUP_TURNED

#undef SPW_WARPGROUP_PRODUCTS
#undef SPW_WARPGROUP_PRODUCT
#undef SPW_NAMES_64
#undef SPW_NAMES_56
#undef SPW_NAMES_48
#undef SPW_NAMES_44
#undef SPW_NAMES_32
#undef SPW_NAMES_16
#undef SPW_REGS_64
#undef SPW_REGS_48
#undef SPW_REGS_32
#undef SPW_REGS_16
#undef SPW_REGS_8

#endif

}  // namespace spillway::gpu::cuda
