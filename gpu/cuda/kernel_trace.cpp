// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda/kernel_trace.hpp"

#include <string>

#ifdef SPW_HAVE_CUPTI
#include <cupti.h>
#include <cxxabi.h>
#include <dlfcn.h>

#include <chrono>
#include <cstdlib>
#include <map>
#include <mutex>
#include <utility>
#include <vector>
#endif

namespace spillway::gpu::cuda {

#ifdef SPW_HAVE_CUPTI
namespace {

constexpr std::size_t kBufferBytes = std::size_t{1} << 20;
constexpr std::uint32_t kReportPeriod_ms = 50;

struct Span {
  const std::string* name = nullptr;  // in names
  std::int64_t begin_ns = 0, end_ns = 0;
};

/// What CUPTI's own thread fills; CUPTI calls plain functions, so this is the process's.
struct Reports {
  std::mutex mutex;
  std::map<std::string, std::string> names;  // mangled -> short; entries stay
  std::vector<Span> spans;
};
Reports& reports() {
  static Reports all;
  return all;
}

struct Library {
  decltype(&cuptiActivityEnable) enable = nullptr;
  decltype(&cuptiActivityDisable) disable = nullptr;
  decltype(&cuptiActivityRegisterCallbacks) callbacks = nullptr;
  decltype(&cuptiActivityRegisterTimestampCallback) clock = nullptr;
  decltype(&cuptiActivityFlushAll) flush = nullptr;
  decltype(&cuptiActivityFlushPeriod) period = nullptr;
  decltype(&cuptiActivityGetNextRecord) next = nullptr;
  std::string missing;
};

const Library& library() {
  static const Library loaded = [] {
    Library l;
    void* handle = nullptr;
    for (const char* name : {"libcupti.so.13", "libcupti.so", "/usr/local/cuda/extras/CUPTI/lib64/libcupti.so"})
      if (handle == nullptr) handle = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) {
      l.missing = "libcupti.so cannot be loaded";
      return l;
    }
    const auto find = [&]<class F>(const char* name, F& function) {
      function = reinterpret_cast<F>(dlsym(handle, name));
      if (function == nullptr) l.missing = std::string("libcupti.so has no ") + name;
    };
    find("cuptiActivityEnable", l.enable);
    find("cuptiActivityDisable", l.disable);
    find("cuptiActivityRegisterCallbacks", l.callbacks);
    find("cuptiActivityRegisterTimestampCallback", l.clock);
    find("cuptiActivityFlushAll", l.flush);
    find("cuptiActivityFlushPeriod", l.period);
    find("cuptiActivityGetNextRecord", l.next);
    return l;
  }();
  return loaded;
}

/// "spillway::gpu::cuda::(anonymous namespace)::norm<float>(...)" is "norm".
std::string short_name(const char* mangled) {
  int status = 0;
  char* text = abi::__cxa_demangle(mangled, nullptr, nullptr, &status);
  std::string name = status == 0 && text != nullptr ? text : mangled;
  std::free(text);
  if (name.starts_with("void ")) name.erase(0, 5);
  for (std::size_t at; (at = name.find("(anonymous namespace)::")) != std::string::npos;) name.erase(at, 23);
  name = name.substr(0, name.find_first_of("<("));
  const std::size_t colon = name.rfind("::");
  return colon == std::string::npos ? name : name.substr(colon + 2);
}

std::uint64_t CUPTIAPI steady_ns() {
  return static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count());
}

void CUPTIAPI give_buffer(std::uint8_t** buffer, std::size_t* size, std::size_t* records) {
  *buffer = static_cast<std::uint8_t*>(std::aligned_alloc(8, kBufferBytes));
  *size = kBufferBytes;
  *records = 0;
}

void CUPTIAPI take_buffer(CUcontext, std::uint32_t, std::uint8_t* buffer, std::size_t, std::size_t valid) {
  Reports& all = reports();
  const std::lock_guard lock(all.mutex);
  CUpti_Activity* record = nullptr;
  while (library().next(buffer, valid, &record) == CUPTI_SUCCESS) {
    if (record->kind != CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) continue;
    const auto* kernel = reinterpret_cast<const CUpti_ActivityKernel10*>(record);
    const auto [entry, is_new] = all.names.try_emplace(kernel->name);
    if (is_new) entry->second = short_name(kernel->name);
    all.spans.push_back({&entry->second, static_cast<std::int64_t>(kernel->start), static_cast<std::int64_t>(kernel->end)});
  }
  std::free(buffer);
}

}  // namespace

Result<std::unique_ptr<KernelTrace>> KernelTrace::start() {
  const Library& cupti = library();
  if (!cupti.missing.empty()) return Error{Errc::kUnsupported, "--trace-kernels needs CUPTI: " + cupti.missing};
  if (cupti.clock(steady_ns) != CUPTI_SUCCESS || cupti.callbacks(give_buffer, take_buffer) != CUPTI_SUCCESS ||
      cupti.enable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) != CUPTI_SUCCESS)
    return Error{Errc::kUnsupported, "--trace-kernels: CUPTI refuses to trace, another profiler may be at work"};
  (void)cupti.period(kReportPeriod_ms);
  return std::unique_ptr<KernelTrace>(new KernelTrace);
}

KernelTrace::~KernelTrace() { (void)library().disable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL); }

void KernelTrace::drain(const OnSpan& on_span) {
  std::vector<Span> spans;
  {
    const std::lock_guard lock(reports().mutex);
    spans.swap(reports().spans);
  }
  for (const Span& span : spans) on_span(span.name->c_str(), span.begin_ns, span.end_ns);
}

void KernelTrace::finish(const OnSpan& on_span) {
  (void)library().flush(1);
  drain(on_span);
}

#else

Result<std::unique_ptr<KernelTrace>> KernelTrace::start() {
  return Error{Errc::kUnsupported, "--trace-kernels needs CUPTI, which this build was made without"};
}
KernelTrace::~KernelTrace() = default;
void KernelTrace::drain(const OnSpan&) {}
void KernelTrace::finish(const OnSpan&) {}

#endif

}  // namespace spillway::gpu::cuda
