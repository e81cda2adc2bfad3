// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda/quantized.cuh"

#include "gpu/cuda/launch.cuh"

namespace spillway::gpu::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kUnpackPanels = 4;  // a block of threads

/// Number `i` (of 32) of a file's block, as stored: not yet less its offset.
__device__ __forceinline__ int stored_number(const unsigned char* block, DType type, int i) {
  const auto nibble = [i](const unsigned char* quants) { return i < 16 ? quants[i] & 15 : quants[i - 16] >> 4; };
  const auto bit = [i](const unsigned char* bits) { return bits[i / 8] >> i % 8 & 1; };
  switch (type) {
    case DType::kQ4_0:
      return nibble(block + 2);
    case DType::kQ4_1:
      return nibble(block + 4);
    case DType::kQ5_0:
      return nibble(block + 6) + 16 * bit(block + 2);
    case DType::kQ5_1:
      return nibble(block + 8) + 16 * bit(block + 4);
    default:
      return block[2 + i] ^ 0x80;
  }
}

struct PackParams {
  const unsigned char* from = nullptr;
  PackedMatrix to;
  int first_row = 0;
  std::int64_t first_block = 0, blocks = 0;
};

/// One thread a block of the file.
__global__ void pack(const PackParams p) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= p.blocks) return;
  const DType type = p.to.type;
  const int panels = p.to.panels_a_tile(), bytes = packed_block_bytes(type);
  const std::int64_t block = p.first_block + i;
  const PackedRow at = packed_row(p.first_row + static_cast<int>(block / panels), p.to.rows, p.to.gated);
  const unsigned char* from = p.from + i * bytes;
  auto* region = static_cast<unsigned char*>(p.to.data) +
                 (std::int64_t{at.tile} * panels + block % panels) * panel_bytes(type) + at.region * region_bytes(type);
  const RegionShape shape = region_shape(type);
  const int g = at.row % 8, high = at.row / 8;
  for (int t = 0; t < 4; ++t) {
    const int lane = g * 4 + t;
    unsigned word = 0, bits = 0;
    for (int c = 0; c < 8; ++c) {
      const int number = stored_number(from, type, t * 8 + c), place = c / 2 + c % 2 * 4;
      if (type == DType::kQ8_0) region[lane * 16 + high * 8 + c] = static_cast<unsigned char>(number);
      word |= static_cast<unsigned>(number & 15) << 4 * place;
      bits |= static_cast<unsigned>(number >> 4 & 1) << place;
    }
    if (type == DType::kQ8_0) continue;
    *reinterpret_cast<unsigned*>(region + lane * 8 + high * 4) = word;
    if (shape.high_bits != 0) region[shape.quants + lane * 2 + high] = static_cast<unsigned char>(bits);
  }
  auto* scales = reinterpret_cast<unsigned short*>(region + shape.quants + shape.high_bits) + g * (shape.minimum ? 4 : 2);
  scales[high] = static_cast<unsigned short>(from[0] | from[1] << 8);
  if (shape.minimum) scales[2 + high] = static_cast<unsigned short>(from[2] | from[3] << 8);
}

struct UnpackParams {
  PackedMatrix from;
  void* to = nullptr;
};

/// A warp a region and panel.
template <class T, DType kType>
__global__ void unpack(const UnpackParams p) {
  wait_for_producer();
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int panels = p.from.panels_a_tile(), first = static_cast<int>(blockIdx.x) * kUnpackPanels;
  const int low = matrix_row({static_cast<int>(blockIdx.y), warp, lane / 4}, p.from.rows, p.from.gated);
  const int high = matrix_row({static_cast<int>(blockIdx.y), warp, lane / 4 + 8}, p.from.rows, p.from.gated);
#pragma unroll
  for (int i = 0; i < kUnpackPanels; ++i) {
    const int panel = first + i;
    if (panel >= panels) break;
    const char* region = static_cast<const char*>(p.from.data) +
                         (std::int64_t{blockIdx.y} * panels + panel) * panel_bytes(kType) + warp * region_bytes(kType);
    unsigned a[2][4];
    decode_region<T, kType>(region, lane, a);
    T* to = static_cast<T*>(p.to) + panel * kPanelCols + lane % 4 * 8;
    if (low < p.from.rows)
      *reinterpret_cast<uint4*>(to + std::int64_t{low} * p.from.cols) = make_uint4(a[0][0], a[0][2], a[1][0], a[1][2]);
    if (high < p.from.rows)
      *reinterpret_cast<uint4*>(to + std::int64_t{high} * p.from.cols) = make_uint4(a[0][1], a[0][3], a[1][1], a[1][3]);
  }
}

/// One thread 4 bytes of a region.
__global__ void fill_packed(const PackedMatrix to, float range, std::uint64_t seed) {
  const RegionShape shape = region_shape(to.type);
  const int region = region_bytes(to.type);
  const auto words = static_cast<std::int64_t>(to.bytes() / 4);
  const float step = range / (shape.minimum ? (shape.high_bits != 0 ? 15.5f : 7.5f) : static_cast<float>(shape.offset));
  const unsigned scale = __half_as_ushort(__float2half_rn(step)), minimum = __half_as_ushort(__float2half_rn(-range));
  for (std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x; i < words; i += std::int64_t{gridDim.x} * kThreads) {
    const int at = static_cast<int>(i * 4 % region) - shape.quants - shape.high_bits;
    std::uint64_t z = seed + static_cast<std::uint64_t>(i) * 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    auto word = static_cast<unsigned>((z ^ (z >> 31)) >> 32);
    if (at >= 0) word = (shape.minimum && at % 8 >= 4 ? minimum : scale) * 0x10001u;
    static_cast<unsigned*>(to.data)[i] = word;
  }
}

}  // namespace

void launch_pack(const void* from, const PackedMatrix& to, int first_row, std::int64_t first_block, std::int64_t blocks,
                 cudaStream_t stream) {
  const PackParams p{static_cast<const unsigned char*>(from), to, first_row, first_block, blocks};
  pack<<<static_cast<unsigned>((blocks + kThreads - 1) / kThreads), kThreads, 0, stream>>>(p);
}

void launch_unpack(const PackedMatrix& from, void* to, Element element, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>((from.panels_a_tile() + kUnpackPanels - 1) / kUnpackPanels),
                  static_cast<unsigned>(from.tiles()));
  const UnpackParams p{from, to};
  with_quantized(from.type, [&]<DType kType>() {
    const auto kernel = element == Element::kBF16 ? unpack<__nv_bfloat16, kType> : unpack<__half, kType>;
    launch_overlapped(kernel, grid, kThreads, 0, p, stream);
  });
}

void launch_fill_packed(const PackedMatrix& to, float range, std::uint64_t seed, cudaStream_t stream) {
  fill_packed<<<1024, kThreads, 0, stream>>>(to, range, seed);
}

}  // namespace spillway::gpu::cuda
