// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda/collective.hpp"

#include "tests/support/catch.hpp"

extern "C" {
void fake_nccl_graphs_gone(bool gone);
int fake_nccl_aborts();
int fake_nccl_aborted();
int fake_nccl_destroyed();
int fake_nccl_operations();
}

namespace spillway::gpu::cuda {
namespace {

std::unique_ptr<Collective> join() {
  const Result<GroupId> id = Collective::make_id();
  REQUIRE(id.ok());
  Result<std::unique_ptr<Collective>> joined = Collective::join(*id, 0, 2);
  REQUIRE(joined.ok());
  return std::move(*joined);
}

}  // namespace

TEST_CASE("collective: its abort returns though NCCL's waits for graphs, and is over before it goes") {
  fake_nccl_graphs_gone(false);
  std::unique_ptr<Collective> collective = join();
  float value = 0;
  collective->all_reduce(&value, 1, Element::kF32, nullptr);
  CHECK(fake_nccl_operations() == 1);
  collective->abort();  // would hang here
  collective->abort();
  collective->all_reduce(&value, 1, Element::kF32, nullptr);
  collective->all_gather(&value, &value, 1, nullptr);
  CHECK(fake_nccl_operations() == 1);
  CHECK(collective->status().ok());
  fake_nccl_graphs_gone(true);  // as a device does before its collective
  collective.reset();
  CHECK(fake_nccl_aborts() == 1);
  CHECK(fake_nccl_aborted() == 1);
  CHECK(fake_nccl_destroyed() == 0);
}

TEST_CASE("collective: one that was not aborted is destroyed") {
  const int before = fake_nccl_destroyed();
  join().reset();
  CHECK(fake_nccl_destroyed() == before + 1);
}

}  // namespace spillway::gpu::cuda
