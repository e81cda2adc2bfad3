// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda/tensor_map.hpp"

#include <cudaTypedefs.h>
#include <cuda_runtime_api.h>

namespace spillway::gpu::cuda {
namespace {

/// The program does not link the driver's library: the runtime knows it.
PFN_cuTensorMapEncodeTiled_v12000 encoder() {
  static const auto found = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult result{};
    const bool ok = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                                     cudaEnableDefault, &result) == cudaSuccess;
    return ok && result == cudaDriverEntryPointSuccess
               ? reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function)
               : nullptr;
  }();
  return found;
}

CUtensorMapDataType type_of(Element element) {
  return element == Element::kBF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
}

/// Sizes and strides from the fastest dimension on; that one's stride is the element.
template <std::size_t kDims>
bool map_boxes(CUtensorMap& map, Element element, const void* data, const cuuint64_t (&size)[kDims],
               const cuuint64_t (&stride)[kDims - 1], const cuuint32_t (&box)[kDims]) {
  cuuint32_t steps[kDims];
  for (cuuint32_t& step : steps) step = 1;
  return encoder() != nullptr &&
         encoder()(&map, type_of(element), kDims, const_cast<void*>(data), size, stride, box, steps,
                   CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                   CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

}  // namespace

bool map_rows(CUtensorMap& map, Element element, const void* data, int rows, int cols, int box_rows,
              int box_cols) {
  const cuuint64_t size[] = {static_cast<cuuint64_t>(cols), static_cast<cuuint64_t>(rows)};
  const cuuint64_t stride[] = {static_cast<cuuint64_t>(cols) * 2};
  const cuuint32_t box[] = {static_cast<cuuint32_t>(box_cols), static_cast<cuuint32_t>(box_rows)};
  return map_boxes(map, element, data, size, stride, box);
}

bool map_groups(CUtensorMap& map, Element element, const void* data, std::int64_t rows, int cols, int box_rows) {
  const auto width = static_cast<cuuint64_t>(cols), parts = width / 64;
  const cuuint64_t size[] = {64, 8, parts, static_cast<cuuint64_t>(rows) / 8};
  const cuuint64_t stride[] = {width * 2, 128, width * 16};
  const cuuint32_t box[] = {64, 8, static_cast<cuuint32_t>(parts), static_cast<cuuint32_t>(box_rows) / 8};
  return map_boxes(map, element, data, size, stride, box);
}

}  // namespace spillway::gpu::cuda
