// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda/tensor_parallel.hpp"

#include <string>
#include <vector>

#include "gpu/cuda/collective.hpp"
#include "gpu/cuda/cuda_device.hpp"
#include "gpu/ranks/group_device.hpp"

namespace spillway::gpu::cuda {

Result<std::unique_ptr<Device>> create_tensor_parallel_device(const CreateArgs& args) {
  const std::uint32_t size = args.cuda->tensor_parallel_size;
  if (Result<void> good = check_shards(*args.spec, static_cast<int>(size)); !good) {
    if (args.cuda->peers != nullptr) args.cuda->peers->give_up(good.error());
    return good.error();
  }
  ranks::GroupArgs group;
  group.peers = args.cuda->peers;
  group.range = group.peers != nullptr ? group.peers->range() : ranks::RankRange{0, size, size};
  group.make_id = Collective::make_id;
  group.make_rank = [&](std::uint32_t rank, ranks::RankGroup& members) {
    CudaOptions own = *args.cuda;
    const std::uint32_t here = rank - group.range.first;
    own.ordinal += static_cast<int>(here);
    CreateArgs mine = args;
    mine.cuda = &own;
    if (here != 0) {
      own.on_span = nullptr;
      own.on_logits = nullptr;
      mine.on_uploaded = nullptr;
    }
    return create_rank_device(mine, {{static_cast<int>(rank), static_cast<int>(size)}, &members});
  };
  return ranks::create_group_device(group);
}

}  // namespace spillway::gpu::cuda
