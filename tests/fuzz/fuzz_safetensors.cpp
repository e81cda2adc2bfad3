// SPDX-License-Identifier: Apache-2.0
#include "model/safetensors.hpp"
#include "tests/fuzz/check_message.hpp"
#include "tests/fuzz/targets.hpp"

namespace spillway::fuzz {

void safetensors(Input input) {
  const auto tensors = model::parse_safetensors(input, "fuzz.safetensors");
  if (!tensors) return check_message(tensors.error(), "fuzz.safetensors");
  std::size_t total = 0;
  for (const model::SafetensorsEntry& tensor : *tensors) {
    SPW_CHECK(tensor.data.data() >= input.data());
    SPW_CHECK(tensor.data.data() + tensor.data.size() <= input.data() + input.size());
    total += tensor.data.size();
    if (!tensor.dtype) continue;
    std::size_t bytes = model::block_bytes(*tensor.dtype);
    for (const std::uint64_t size : tensor.shape) bytes *= size;
    SPW_CHECK(bytes == tensor.data.size());
  }
  SPW_CHECK(total <= input.size());  // no byte belongs to two tensors
}

}  // namespace spillway::fuzz
