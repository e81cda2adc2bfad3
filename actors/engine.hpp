// SPDX-License-Identifier: Apache-2.0
#pragma once

// Engine: a model, a device and the actors that serve it, in one object. The embedded API.
//
//   auto engine = Engine::create({.model = "model.gguf"});
//   auto session = (*engine)->start([](Session& session, ...) -> Task<void> { ... co_await
//   session.generate(...) }); session.wait();
//
// Sessions are client actors: they run beside the serving actors, on a worker of their own, so they may block
// or print. All functions may be called from any thread that is not one of the engine's workers.

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "actors/serving.hpp"
#include "actors/session.hpp"
#include "gpu/device.hpp"
#include "gpu/host/execution_mode.hpp"
#include "model/chat_template.hpp"
#include "model/loader.hpp"
#include "model/tokenizer.hpp"
#include "runtime/executor.hpp"

namespace spillway {

using actors::ChoiceDelta;
using actors::ChoiceFailed;
using actors::ChoiceFinished;
using actors::FinishReason;
using actors::GenerationRequest;
using actors::RequestDone;
using actors::Session;
using actors::Stream;
using actors::StreamEvent;
using actors::StreamTag;
using actors::TokenInfo;
using actors::Usage;
using model::SamplingParams;
using runtime::Task;

/// kAuto: a CUDA GPU if there is one that works, else the host.
enum class DeviceKind : std::uint8_t { kAuto, kHost, kCuda };

/// Processes, on any hosts, whose GPUs share the model; this one is node 0, the others run `spillway worker`.
struct NodeOptions {
  std::uint32_t nodes = 1;  // 1: this process alone
  std::string master_addr = "127.0.0.1";  // where this one waits for the others
  std::uint16_t master_port = 29501;      // 0: any free one
  std::filesystem::path key_file;         // whose first line all nodes share; empty: only this host's processes are let in
  std::chrono::seconds timeout{600};      // for the others to come, and for each part of their start
  std::function<void(const std::string&)> on_note;  // hears what the start waits for; may be empty
};

enum class KvCacheDType : std::uint8_t { kAuto, kF32, kF16, kBF16, kQ8_0 };

struct EngineOptions {
  std::filesystem::path model;  // a GGUF file or a Hugging Face directory
  model::LoadFormat load_format = model::LoadFormat::kAuto;
  std::optional<DeviceKind> device;     // empty: as kAuto
  double gpu_memory_utilization = 0.9;  // share of a GPU's memory, when kv_cache_memory_bytes is 0
  std::uint32_t tensor_parallel_size = 1;  // GPUs that share the model, on all nodes
  NodeOptions nodes;
  KvCacheDType kv_cache_dtype = KvCacheDType::kAuto;  // kAuto: fp32 for fp32 weights, else fp16; bf16 on a
                                                      // GPU for bf16 weights. A GPU computes in this type too
  std::size_t kv_cache_memory_bytes = 0;     // 0: chosen, see default_kv_cache_bytes
  std::uint32_t block_size = 16;             // tokens a block
  std::uint32_t max_num_seqs = 0;            // 0: 64, on a GPU 256
  std::uint32_t max_num_batched_tokens = 0;  // in one step, at least max_num_seqs; 0: 512, on a GPU 8192
  std::uint32_t max_model_len = 0;           // 0: as the model was trained
  bool enable_prefix_caching = true;
  std::uint32_t async_submit = 2;  // steps in flight; 1: synchronous
  double max_itl_stretch = 0;  // above 1: a step that carries part of a prompt takes at most so many times
                               // one that only decodes; 0: prompts get all of max_num_batched_tokens
  model::SparseKvParams sparse_kv;     // of requests that say nothing; method none: exact
  bool sparse_kv_per_request = false;  // requests may be sparsified though sparse_kv's method is none
  std::uint32_t sparse_kv_budget_min = 0;  // tokens; requests with a smaller budget are refused
  std::uint32_t threads = 0;  // of the host device; 0: all cores
  bool populate_kv_cache = false;  // on the host: make the cache's memory resident ahead, in the background
  bool kv_cache_grows = false;  // on the host, with kv_cache_memory_bytes 0: beyond the default when sequences
                                // need it, see grown_kv_cache_bytes
  std::string cpu_target;     // caps SIMD: "avx2", "avx512vnni", "scalar"; empty: what the CPU has
  gpu::host::ExecutionMode execution_mode = gpu::host::ExecutionMode::kAccuracy;  // of the host device
  bool simulate_device =
      false;  // compute nothing: tokens come out of a hash, at once (gpu/sim); measures the rest
  std::chrono::microseconds simulated_step{0};  // with simulate_device: what a step takes
  std::uint64_t inject_device_fault = 0;  // for tests, on a GPU: the device is lost at this step; 0: never
  bool trace_kernels = false;             // with trace, on a GPU: every kernel too
  std::function<void(const actors::SlotTotals&)> on_slots;  // hears of the KV slots at every step, on an
                                                            // engine's worker; empty: nobody counts them
  std::function<void(std::uint64_t done_bytes, std::uint64_t all_bytes)> on_weights;  // hears of each tensor that has
                                                // reached the device while the engine is made; empty: nobody
  std::filesystem::path trace;                  // write Chrome trace JSON here; empty: no tracing
  std::chrono::seconds stall_limit{60};  // a session that takes no output for so long has its request cut
};

/// The end of one choice.
struct CompletedChoice {
  std::string text;
  std::vector<TokenInfo> tokens;
  FinishReason reason = FinishReason::kStop;
  std::optional<Error> error;  // set: the choice failed after what `tokens` holds
  Usage usage;
  runtime::TimePoint first_token{};  // executor time; zero if none came
  runtime::TimePoint end{};
};

struct Completion {
  std::optional<Error> refused;  // set: never ran
  std::vector<CompletedChoice> choices;
  runtime::TimePoint submitted{};
};

/// What complete() has done so far; told after every event.
struct Progress {
  std::size_t requests_done = 0, requests_total = 0;
  std::uint64_t tokens = 0;
};

/// A running session. Dropping it does not stop the session; the engine's end does.
class SessionHandle {
 public:
  /// Until the session's coroutine has ended.
  void wait() const { done_.wait(); }
  [[nodiscard]] bool wait_for(std::chrono::milliseconds duration) const {
    return done_.wait_for(duration) == std::future_status::ready;
  }
  /// Cancels whatever the session has open; its streams end with FinishReason::kCancelled. Safe in no signal
  /// handler.
  void stop() const { address_.send_urgent(actors::StopSession{}); }

 private:
  friend class Engine;
  SessionHandle(actors::ClientAddress address, std::shared_future<void> done)
      : address_(std::move(address)), done_(std::move(done)) {}
  actors::ClientAddress address_;
  std::shared_future<void> done_;
};

class Engine {
 public:
  /// Loads the model, prepares the device and starts the actors. Errors name the file or option that is
  /// wrong.
  [[nodiscard]] static Result<std::unique_ptr<Engine>> create(EngineOptions options);
  ~Engine();  // shutdown() if it was not called
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  /// Starts `fn(Session&, args...)`, a coroutine function without captures, as a client actor.
  template <class F, class... Args>
  SessionHandle start(F fn, Args... args) {
    std::promise<void> promise;
    std::shared_future<void> done = promise.get_future().share();
    actors::ClientAddress address = executor().template spawn<actors::ClientMessage>(
        session_options(), &run_session<F, Args...>, router(), std::move(promise), std::move(fn),
        std::move(args)...);
    return {std::move(address), std::move(done)};
  }

  /// Runs all requests as one continuously batched job and waits. `on_progress`, if any, is called on the
  /// engine's session worker. When `cancel` becomes ready the rest is cancelled.
  [[nodiscard]] std::vector<Completion> complete(std::vector<GenerationRequest> requests,
                                                 std::function<void(const Progress&)> on_progress = {},
                                                 std::function<bool()> cancelled = {});

  [[nodiscard]] const model::Model& model() const noexcept;
  /// Null when the model brings none that this build reads: prompts are token ids then, and answers have no
  /// text.
  [[nodiscard]] const model::Tokenizer* tokenizer() const noexcept;
  [[nodiscard]] const gpu::DeviceInfo& device() const noexcept;
  /// Why DeviceKind::kAuto chose the host, or empty.
  [[nodiscard]] const std::string& why_host() const noexcept;
  [[nodiscard]] std::uint32_t max_model_len() const noexcept;
  [[nodiscard]] const EngineOptions& options() const noexcept;

  /// Token ids of a raw prompt, with what the tokenizer adds (BOS and the like). Errors: why there is no
  /// tokenizer.
  [[nodiscard]] Result<std::vector<model::TokenId>> encode(std::string_view text) const;

  /// Token ids of a conversation in the model's own chat format. kUnsupported when the model brings no
  /// template.
  [[nodiscard]] Result<std::vector<model::TokenId>> chat_prompt(
      std::span<const model::Message> messages) const;

  /// For servers: starts `fn(ActorContext<ClientMessage>&, args...)` as a client actor that speaks to
  /// router() itself, on the worker of the sessions.
  template <class F, class... Args>
  actors::ClientAddress start_client(F fn, Args... args) {
    return executor().template spawn<actors::ClientMessage>(session_options(), fn, std::move(args)...);
  }
  [[nodiscard]] const runtime::Address<actors::RouterMessage>& router() const noexcept;
  /// Posts an EngineSnapshot to `client`; does not wait. With `blocks`, the state of each KV block too.
  void request_snapshot(actors::ClientAddress client, std::uint64_t tag, bool blocks);
  [[nodiscard]] runtime::TimePoint now() const;

  /// A consistent copy of the actors' counters.
  [[nodiscard]] actors::ServingStats stats();

  /// Lets open requests run on until `drain` has passed, then ends everything. Writes the trace.
  void shutdown(std::chrono::milliseconds drain = std::chrono::milliseconds(0));

 private:
  struct State;
  explicit Engine(std::unique_ptr<State> state);

  template <class F, class... Args>
  static Task<void> run_session(runtime::ActorContext<actors::ClientMessage>& self,
                                runtime::Address<actors::RouterMessage> router, std::promise<void> done, F fn,
                                Args... args) {
    {
      Session session(self, std::move(router));
      co_await fn(session, std::move(args)...);
    }
    done.set_value();
  }

  [[nodiscard]] runtime::Executor& executor() noexcept;
  [[nodiscard]] static runtime::SpawnOptions session_options();

  std::unique_ptr<State> state_;
};

/// The KV pool when none is asked for: 224 MiB, or what one sequence of max_model_len needs if that is more,
/// but at most half of the machine's memory.
[[nodiscard]] std::size_t default_kv_cache_bytes(const model::ModelSpec& spec, gpu::KvDType dtype,
                                                 std::uint32_t max_model_len, std::size_t machine_bytes);

/// What a pool of `usual` bytes may grow to: 2 GiB, but at most an eighth of the memory that is available and
/// what `max_num_seqs` sequences of max_model_len need; never less than `usual`.
[[nodiscard]] std::size_t grown_kv_cache_bytes(const model::ModelSpec& spec, gpu::KvDType dtype,
                                               std::uint32_t max_model_len, std::uint32_t max_num_seqs,
                                               std::size_t usual, std::size_t available_bytes);

/// Bytes of one token's keys and values over all layers.
[[nodiscard]] std::size_t kv_bytes_per_token(const model::ModelSpec& spec, gpu::KvDType dtype);

}  // namespace spillway
