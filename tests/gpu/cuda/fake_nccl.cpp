// SPDX-License-Identifier: Apache-2.0
// libnccl.so.2 as Collective sees it, without a GPU. Like the real one (2.26 and later) its abort waits for
// the graphs that hold its kernels: here until fake_nccl_graphs_gone().

#include <nccl.h>

#include <atomic>
#include <chrono>
#include <thread>

namespace {
std::atomic<bool> graphs_gone{false};
std::atomic<int> aborts{0}, aborted{0}, destroyed{0}, operations{0};
}  // namespace

extern "C" {
void fake_nccl_graphs_gone(bool gone) { graphs_gone = gone; }
int fake_nccl_aborts() { return aborts; }
int fake_nccl_aborted() { return aborted; }
int fake_nccl_destroyed() { return destroyed; }
int fake_nccl_operations() { return operations; }

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  *id = {};
  return ncclSuccess;
}
ncclResult_t ncclCommInitRank(ncclComm_t* comm, int, ncclUniqueId, int) {
  *comm = reinterpret_cast<ncclComm_t>(&operations);
  return ncclSuccess;
}
ncclResult_t ncclCommDestroy(ncclComm_t) {
  ++destroyed;
  return ncclSuccess;
}
ncclResult_t ncclCommAbort(ncclComm_t) {
  ++aborts;
  while (!graphs_gone) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  ++aborted;
  return ncclSuccess;
}
ncclResult_t ncclAllReduce(const void*, void*, size_t, ncclDataType_t, ncclRedOp_t, ncclComm_t,
                           cudaStream_t) {
  ++operations;
  return ncclSuccess;
}
ncclResult_t ncclAllGather(const void*, void*, size_t, ncclDataType_t, ncclComm_t, cudaStream_t) {
  ++operations;
  return ncclSuccess;
}
const char* ncclGetErrorString(ncclResult_t) { return "fake"; }
}
