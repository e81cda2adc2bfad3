// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda/collective.hpp"

#include <dlfcn.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <string>
#include <thread>
#include <utility>

#ifdef SPW_HAVE_NCCL
#include <nccl.h>
#endif

namespace spillway::gpu::cuda {

#ifdef SPW_HAVE_NCCL
namespace {

constexpr std::chrono::seconds kAbortMax{5};

struct Library {
  decltype(&ncclGetUniqueId) get_id = nullptr;
  decltype(&ncclCommInitRank) join = nullptr;
  decltype(&ncclCommDestroy) destroy = nullptr;
  decltype(&ncclCommAbort) abort = nullptr;
  decltype(&ncclAllReduce) all_reduce = nullptr;
  decltype(&ncclAllGather) all_gather = nullptr;
  decltype(&ncclGetErrorString) error_text = nullptr;
  std::string missing;  // why it cannot be used
};

template <class F>
void find(void* library, const char* name, F& function, std::string& missing) {
  function = reinterpret_cast<F>(dlsym(library, name));
  if (function == nullptr && missing.empty()) missing = std::string("libnccl.so.2 has no ") + name;
}

const Library& library() {
  static const Library loaded = [] {
    Library l;
    void* handle = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) {
      const char* why = dlerror();
      l.missing = why != nullptr ? why : "libnccl.so.2";
      return l;
    }
    find(handle, "ncclGetUniqueId", l.get_id, l.missing);
    find(handle, "ncclCommInitRank", l.join, l.missing);
    find(handle, "ncclCommDestroy", l.destroy, l.missing);
    find(handle, "ncclCommAbort", l.abort, l.missing);
    find(handle, "ncclAllReduce", l.all_reduce, l.missing);
    find(handle, "ncclAllGather", l.all_gather, l.missing);
    find(handle, "ncclGetErrorString", l.error_text, l.missing);
    return l;
  }();
  return loaded;
}

Result<void> usable() {
  if (library().missing.empty()) return {};
  return Error{Errc::kUnsupported, "--tensor-parallel-size needs NCCL, which cannot be loaded: " + library().missing};
}

ncclDataType_t data_type(Element element) {
  return element == Element::kF32 ? ncclFloat32 : element == Element::kF16 ? ncclFloat16 : ncclBfloat16;
}

Error nccl_error(ncclResult_t code, const char* what) {
  return {Errc::kDeviceFailed, std::string("NCCL, ") + what + ": " + library().error_text(code)};
}

}  // namespace

struct Collective::State {
  ncclComm_t comm = nullptr;
  std::atomic<bool> aborted{false};
  std::thread aborting;
  const std::shared_ptr<std::atomic<bool>> abort_done = std::make_shared<std::atomic<bool>>(false);
  ncclResult_t failure = ncclSuccess;
  const char* failed_at = "";

  void check(ncclResult_t code, const char* what) {
    if (code == ncclSuccess || failure != ncclSuccess) return;
    failure = code;
    failed_at = what;
  }
  /// Until NCCL is done with its abort, but not for ever: it may wait for what died with another rank.
  void end_abort() {
    const auto until = std::chrono::steady_clock::now() + kAbortMax;
    while (!abort_done->load() && std::chrono::steady_clock::now() < until)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    if (abort_done->load()) {
      aborting.join();
    } else {
      aborting.detach();
    }
  }
};

Result<GroupId> Collective::make_id() {
  if (Result<void> good = usable(); !good) return good.error();
  ncclUniqueId id;
  static_assert(sizeof id == sizeof(GroupId));
  if (const ncclResult_t code = library().get_id(&id); code != ncclSuccess) return nccl_error(code, "a group's id");
  GroupId out;
  std::memcpy(out.data(), &id, sizeof id);
  return out;
}

Result<std::unique_ptr<Collective>> Collective::join(const GroupId& id, int rank, int size) {
  if (Result<void> good = usable(); !good) return good.error();
  ncclUniqueId unique;
  std::memcpy(&unique, id.data(), sizeof unique);
  auto state = std::make_unique<State>();
  if (const ncclResult_t code = library().join(&state->comm, size, unique, rank); code != ncclSuccess)
    return nccl_error(code, "joining the group of ranks");
  return std::unique_ptr<Collective>(new Collective(std::move(state)));
}

Collective::Collective(std::unique_ptr<State> state) : state_(std::move(state)) {}

Collective::~Collective() {
  if (!state_->aborted.exchange(true)) (void)library().destroy(state_->comm);
  if (state_->aborting.joinable()) state_->end_abort();
}

void Collective::all_reduce(void* data, std::size_t count, Element element, cudaStream_t stream) {
  if (state_->aborted.load()) return;
  state_->check(library().all_reduce(data, data, count, data_type(element), ncclSum, state_->comm, stream), "sum over ranks");
}

void Collective::all_gather(const float* from, float* to, std::size_t count, cudaStream_t stream) {
  if (state_->aborted.load()) return;
  state_->check(library().all_gather(from, to, count, ncclFloat32, state_->comm, stream), "gathering logits");
}

void Collective::abort() noexcept {
  if (state_->aborted.exchange(true)) return;
  // NCCL's kernels end at once; then it waits until no graph holds them any more, which is when the device goes.
  state_->aborting = std::thread([comm = state_->comm, done = state_->abort_done] {
    (void)library().abort(comm);
    done->store(true);
  });
}

Result<void> Collective::status() const {
  if (state_->failure == ncclSuccess) return {};
  return nccl_error(state_->failure, state_->failed_at);
}

#else

struct Collective::State {};

namespace {
Error without() { return {Errc::kUnsupported, "--tensor-parallel-size needs NCCL, which this build was made without"}; }
}  // namespace

Result<GroupId> Collective::make_id() { return without(); }
Result<std::unique_ptr<Collective>> Collective::join(const GroupId&, int, int) { return without(); }
Collective::Collective(std::unique_ptr<State> state) : state_(std::move(state)) {}
Collective::~Collective() = default;
void Collective::all_reduce(void*, std::size_t, Element, cudaStream_t) {}
void Collective::all_gather(const float*, float*, std::size_t, cudaStream_t) {}
void Collective::abort() noexcept {}
Result<void> Collective::status() const { return {}; }

#endif

}  // namespace spillway::gpu::cuda
