// SPDX-License-Identifier: Apache-2.0
#include "actors/engine.hpp"

#include <unistd.h>
#include <algorithm>
#include <fstream>

#include "gpu/host/host_device.hpp"
#include "gpu/sim/sim_device.hpp"
#include "model/inspect.hpp"
#include "runtime/check.hpp"
#include "runtime/thread_executor.hpp"
#include "runtime/tracer.hpp"

namespace spillway {
namespace {

constexpr std::uint32_t kServingWorker = 0, kSessionWorker = 1;

model::KvFormat format_of(gpu::KvDType dtype) {
  switch (dtype) {
    case gpu::KvDType::kF32:
      return model::KvFormat::kF32;
    case gpu::KvDType::kF16:
      return model::KvFormat::kF16;
    case gpu::KvDType::kBF16:
      return model::KvFormat::kBF16;
    case gpu::KvDType::kQ8_0:
      return model::KvFormat::kQ8_0;
  }
  return model::KvFormat::kF16;
}

gpu::KvDType kv_dtype_for(KvCacheDType wanted, model::DType weights) {
  switch (wanted) {
    case KvCacheDType::kF32:
      return gpu::KvDType::kF32;
    case KvCacheDType::kF16:
      return gpu::KvDType::kF16;
    case KvCacheDType::kBF16:
      return gpu::KvDType::kBF16;
    case KvCacheDType::kQ8_0:
      return gpu::KvDType::kQ8_0;
    case KvCacheDType::kAuto:
      break;
  }
  return weights == model::DType::kF32 ? gpu::KvDType::kF32 : gpu::KvDType::kF16;
}

std::size_t machine_memory_bytes() {
  return static_cast<std::size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<std::size_t>(sysconf(_SC_PAGE_SIZE));
}

Result<void> check_options(const EngineOptions& options, const model::ModelSpec& spec) {
  const auto wrong = [](std::string text) { return Error{Errc::kInvalidArgument, std::move(text)}; };
  if (options.max_num_seqs == 0 || options.max_num_seqs > 4096)
    return wrong("--max-num-seqs must be 1 to 4096");
  if (options.max_num_batched_tokens < options.max_num_seqs || options.max_num_batched_tokens > 65536) {
    return wrong("--max-num-batched-tokens is " + std::to_string(options.max_num_batched_tokens) +
                 "; it must be at least --max-num-seqs (" + std::to_string(options.max_num_seqs) +
                 "), so that every running sequence gets its token, and at most 65536");
  }
  if (options.async_submit == 0 || options.async_submit > 8) return wrong("--async-submit must be 1 to 8");
  if (spec.max_position > 0 && options.max_model_len > static_cast<std::uint32_t>(spec.max_position)) {
    return wrong("--max-model-len is " + std::to_string(options.max_model_len) +
                 ", but the model was trained for " + std::to_string(spec.max_position) + " positions");
  }
  if (options.threads > 1024) return wrong("--threads must be at most 1024");
  return {};
}

/// The device's spans as a track of the trace.
class DeviceTrack final : public gpu::host::SpanHook {
 public:
  explicit DeviceTrack(runtime::Tracer& tracer)
      : tracer_(tracer),
        steps_(tracer.add_track("device 0", "steps")),
        phases_(tracer.add_track("device 0", "kernels")),
        copies_(tracer.add_track("device 0", "copies")) {}

  void on_span(const char* name, std::int64_t begin_ns, std::int64_t end_ns) noexcept override {
    const std::string_view what(name);
    const runtime::TrackId track = what == "step" ? steps_ : what == "copy" ? copies_ : phases_;
    tracer_.trace_span(track, what, runtime::TimePoint(runtime::Duration(begin_ns)),
                       runtime::TimePoint(runtime::Duration(end_ns)));
  }

 private:
  runtime::Tracer& tracer_;
  runtime::TrackId steps_, phases_, copies_;
};

/// A step takes `step` and no computing: what is left is the cost of everything else.
Result<std::unique_ptr<gpu::Device>> simulated_device(const gpu::DeviceOptions& options, const model::ModelSpec& spec,
                                                      runtime::Executor& executor, std::chrono::microseconds step) {
  gpu::SimEnvironment environment{
      .now_ns = [&executor] { return runtime::to_ns(executor.now()); },
      .call_at =
          [&executor](std::int64_t at_ns, std::function<void()> done) {
            executor.call_at(kServingWorker, runtime::TimePoint(runtime::Duration(at_ns)), std::move(done));
          },
      .random = [] { return std::uint64_t{0}; }};
  const gpu::TimingProfile instant{.step_ns = std::chrono::nanoseconds(step).count(),
                                   .prefill_token_ns = 0,
                                   .decode_sequence_ns = 0,
                                   .attended_token_ns = 0,
                                   .copy_block_ns = 0};
  return std::unique_ptr<gpu::Device>(std::make_unique<gpu::SimDevice>(
      options, model::kv_bytes_per_token(spec, format_of(options.kv_dtype)), spec.vocab_size, instant,
      gpu::SimFaults{}, std::move(environment)));
}

}  // namespace

// Members are destroyed from the last: sessions and actors with the executor, then the device, then what they
// used.
struct Engine::State {
  EngineOptions options;
  model::Model model;
  std::optional<model::Tokenizer> tokenizer;
  Error no_tokenizer;  // why, when there is none
  std::optional<model::ChatTemplate> chat_template;
  std::optional<Error> chat_template_error;
  std::uint32_t max_model_len = 0;
  std::unique_ptr<runtime::Tracer> tracer;
  std::unique_ptr<DeviceTrack> device_track;
  std::unique_ptr<actors::Serving> serving;  // holds the device's sink
  std::unique_ptr<gpu::Device> device;
  std::unique_ptr<runtime::ThreadExecutor> executor;
  bool shut_down = false;

  State(EngineOptions o, model::Model m) : options(std::move(o)), model(std::move(m)) {}
};

Engine::Engine(std::unique_ptr<State> state) : state_(std::move(state)) {}

Engine::~Engine() { shutdown(); }

Result<std::unique_ptr<Engine>> Engine::create(EngineOptions options) {
  Result<model::Model> model = model::Model::load(options.model);
  if (!model.ok()) return std::move(model).error();
  if (Result<void> valid = check_options(options, model->spec()); !valid.ok())
    return std::move(valid).error();
  Result<model::Tokenizer> tokenizer = model::load_tokenizer(*model);
  auto state = std::make_unique<State>(std::move(options), *std::move(model));
  if (tokenizer.ok()) {
    state->tokenizer.emplace(*std::move(tokenizer));
  } else if (tokenizer.error().code == Errc::kNotFound || tokenizer.error().code == Errc::kUnsupported) {
    state->no_tokenizer = std::move(tokenizer).error();  // token ids still work
  } else {
    return std::move(tokenizer).error();
  }
  const EngineOptions& set = state->options;
  const model::ModelSpec& spec = state->model.spec();

  if (const auto& source = state->model.chat_template()) {
    Result<model::ChatTemplate> compiled = model::ChatTemplate::compile(*source, "chat template");
    if (compiled.ok()) {
      state->chat_template.emplace(*std::move(compiled));
    } else {
      state->chat_template_error = std::move(compiled).error();
    }
  }

  state->max_model_len =
      set.max_model_len != 0 ? set.max_model_len : static_cast<std::uint32_t>(spec.max_position);
  gpu::DeviceOptions device_options{
      .kv_dtype = kv_dtype_for(set.kv_cache_dtype, state->model.dominant_dtype()),
      .block_size = set.block_size,
      .kv_cache_memory_bytes = set.kv_cache_memory_bytes,
      .max_num_seqs = set.max_num_seqs,
      .max_num_batched_tokens = set.max_num_batched_tokens,
      .max_model_len = state->max_model_len,
      .max_steps_in_flight = set.async_submit};
  if (device_options.kv_cache_memory_bytes == 0) {
    device_options.kv_cache_memory_bytes =
        default_kv_cache_bytes(spec, device_options.kv_dtype, state->max_model_len, machine_memory_bytes());
  }

  if (!set.trace.empty()) {
    // Fail now rather than after the work.
    if (!std::ofstream(set.trace, std::ios::app))
      return Error{Errc::kIo, "cannot write the trace file " + set.trace.string()};
    state->tracer = std::make_unique<runtime::Tracer>();
    state->device_track = std::make_unique<DeviceTrack>(*state->tracer);
  }
  // Workers park at once and are not pinned: the device wants every core.
  state->executor =
      std::make_unique<runtime::ThreadExecutor>(runtime::ThreadOptions{.workers = 2,
                                                                       .spin = runtime::SpinPolicy::park(),
                                                                       .pin = false,
                                                                       .name = "spillway",
                                                                       .tracer = state->tracer.get()});

  gpu::host::HostOptions host{.threads = set.threads, .span_hook = state->device_track.get()};
  host.clock = [executor = state->executor.get()] { return runtime::to_ns(executor->now()); };
  if (!set.cpu_target.empty()) {
    Result<gpu::host::CpuTarget> target = gpu::host::parse_cpu_target(set.cpu_target);
    if (!target.ok()) return std::move(target).error();
    host.cpu_target = *target;
  }
  Result<std::unique_ptr<gpu::Device>> device =
      set.simulate_device
          ? simulated_device(device_options, spec, *state->executor, set.simulated_step)
          : gpu::host::HostDevice::create(
                spec, state->model.weights(), device_options, host,
                [&](const model::TensorView& tensor) { state->model.release_pages(tensor); });
  if (!device.ok()) return std::move(device).error();
  state->device = *std::move(device);
  if (state->device->info().num_blocks == 0) {
    return Error{Errc::kInvalidArgument, "--kv-cache-memory-bytes is " +
                                             std::to_string(device_options.kv_cache_memory_bytes) +
                                             ", less than one block of " +
                                             std::to_string(state->device->info().kv_block_bytes) + " bytes"};
  }

  const auto eos = state->tokenizer ? state->tokenizer->eos_ids() : state->model.eos_ids();
  state->serving = std::make_unique<actors::Serving>(
      *state->executor, actors::ServingConfig{.device = state->device.get(),
                                              .device_options = device_options,
                                              .vocab_size = spec.vocab_size,
                                              .max_model_len = state->max_model_len,
                                              .eos_ids = {eos.begin(), eos.end()},
                                              .tokenizer = state->tokenizer ? &*state->tokenizer : nullptr,
                                              .prefix_caching = set.enable_prefix_caching,
                                              .worker = kServingWorker,
                                              .stall_limit = set.stall_limit});
  return std::unique_ptr<Engine>(new Engine(std::move(state)));
}

void Engine::shutdown(std::chrono::milliseconds drain) {
  if (state_->shut_down) return;
  // While the actors stop they no longer serve each other, so open requests must end before.
  const runtime::TimePoint deadline = state_->executor->now() + drain;
  while (state_->executor->now() < deadline && stats().router.open > 0) {
    usleep(5000);
  }
  state_->shut_down = true;
  constexpr auto kGoodbye = std::chrono::milliseconds(200);  // for sessions to take their last messages
  state_->executor->shutdown(kGoodbye);
  state_->device.reset();  // waits for steps in flight; their completions find no actor
  if (state_->tracer) (void)state_->tracer->write_file(state_->options.trace.string());
}

const model::Model& Engine::model() const noexcept { return state_->model; }
const model::Tokenizer* Engine::tokenizer() const noexcept {
  return state_->tokenizer ? &*state_->tokenizer : nullptr;
}
const gpu::DeviceInfo& Engine::device() const noexcept { return state_->device->info(); }
std::uint32_t Engine::max_model_len() const noexcept { return state_->max_model_len; }
const EngineOptions& Engine::options() const noexcept { return state_->options; }
runtime::Executor& Engine::executor() noexcept { return *state_->executor; }
const runtime::Address<actors::RouterMessage>& Engine::router() const noexcept {
  return state_->serving->router();
}

runtime::SpawnOptions Engine::session_options() { return {.name = "session", .worker = kSessionWorker}; }

Result<std::vector<model::TokenId>> Engine::encode(std::string_view text) const {
  if (!state_->tokenizer) return state_->no_tokenizer;
  return state_->tokenizer->encode(text);
}

Result<std::vector<model::TokenId>> Engine::chat_prompt(std::span<const model::Message> messages) const {
  if (state_->chat_template_error) return *state_->chat_template_error;
  if (!state_->chat_template) {
    return Error{Errc::kUnsupported, "the model brings no chat template; use a raw prompt"};
  }
  if (!state_->tokenizer) return state_->no_tokenizer;
  const model::Tokenizer& tokenizer = *state_->tokenizer;
  model::ChatRenderOptions render;
  if (const auto bos = tokenizer.bos()) render.bos_token = tokenizer.token_bytes(*bos);
  if (!tokenizer.eos_ids().empty()) render.eos_token = tokenizer.token_bytes(tokenizer.eos_ids().front());
  Result<std::string> text = state_->chat_template->render(messages, render);
  if (!text.ok()) return std::move(text).error();
  // The template writes BOS and the like itself.
  return tokenizer.encode(*text, {.add_special_tokens = false, .parse_special = true});
}

runtime::TimePoint Engine::now() const { return state_->executor->now(); }

void Engine::request_snapshot(actors::ClientAddress client, std::uint64_t tag, bool blocks) {
  executor().call_soon(kServingWorker, [this, client = std::move(client), tag, blocks] {
    auto stats = std::make_shared<const actors::ServingStats>(state_->serving->stats());
    if (!blocks) return client.post(actors::EngineSnapshot{tag, std::move(stats), {}});
    state_->serving->block_manager_address().post(actors::DescribeBlocks{tag, client, std::move(stats)});
  });
}

actors::ServingStats Engine::stats() {
  if (state_->shut_down) return state_->serving->stats();
  std::promise<actors::ServingStats> promise;
  std::future<actors::ServingStats> copy = promise.get_future();
  executor().call_soon(kServingWorker, [&promise, this] { promise.set_value(state_->serving->stats()); });
  return copy.get();
}

namespace {

struct Job {
  std::vector<GenerationRequest> requests;
  std::vector<Completion>* completions;
  std::function<void(const Progress&)> on_progress;
};

void record(CompletedChoice& choice, ChoiceDelta& delta, runtime::TimePoint now) {
  if (choice.first_token == runtime::TimePoint{} && !delta.tokens.empty()) choice.first_token = now;
  choice.text += delta.text;
  std::ranges::move(delta.tokens, std::back_inserter(choice.tokens));
}

Task<void> run_job(Session& session, Job job) {
  std::vector<Completion>& completions = *job.completions;
  std::vector<Stream> streams;
  std::vector<std::size_t> request_of{0};  // by tag, which counts from 1
  Progress progress{.requests_total = completions.size()};
  const auto report = [&] {
    if (job.on_progress) job.on_progress(progress);
  };

  for (std::size_t i = 0; i < job.requests.size(); ++i) {
    Completion& completion = completions[i];
    const std::int32_t choices = std::max(job.requests[i].params.n, 1);
    completion.submitted = session.now();
    request_of.push_back(i);
    Result<Stream> stream = co_await session.generate(std::move(job.requests[i]));
    if (!stream.ok()) {
      completion.refused = stream.error();
      ++progress.requests_done;
      continue;
    }
    completion.choices.resize(static_cast<std::size_t>(choices));
    streams.push_back(std::move(*stream));
  }
  report();
  while (auto next = co_await session.next_event()) {
    Completion& completion = completions[request_of[next->first]];
    if (auto* delta = std::get_if<ChoiceDelta>(&next->second)) {
      progress.tokens += delta->tokens.size();
      record(completion.choices[delta->choice], *delta, session.now());
    } else if (auto* finished = std::get_if<ChoiceFinished>(&next->second)) {
      CompletedChoice& choice = completion.choices[finished->choice];
      choice.reason = finished->reason;
      choice.usage = finished->usage;
      choice.end = session.now();
    } else if (auto* failed = std::get_if<ChoiceFailed>(&next->second)) {
      CompletedChoice& choice = completion.choices[failed->choice];
      choice.error = std::move(failed->error);
      choice.usage = failed->usage;
      choice.end = session.now();
    } else {
      ++progress.requests_done;
    }
    report();
  }
}

}  // namespace

std::vector<Completion> Engine::complete(std::vector<GenerationRequest> requests,
                                         std::function<void(const Progress&)> on_progress,
                                         std::function<bool()> cancelled) {
  std::vector<Completion> completions(requests.size());
  const SessionHandle job = start(run_job, Job{std::move(requests), &completions, std::move(on_progress)});
  bool stopped = false;
  while (!job.wait_for(std::chrono::milliseconds(50))) {
    if (!stopped && cancelled && cancelled()) {
      job.stop();
      stopped = true;
    }
  }
  return completions;
}

std::size_t kv_bytes_per_token(const model::ModelSpec& spec, gpu::KvDType dtype) {
  return model::kv_bytes_per_token(spec, format_of(dtype));
}

std::size_t default_kv_cache_bytes(const model::ModelSpec& spec, gpu::KvDType dtype,
                                   std::uint32_t max_model_len, std::size_t machine_bytes) {
  constexpr std::size_t kUsual = std::size_t{256} << 20;
  const std::size_t longest = kv_bytes_per_token(spec, dtype) * max_model_len;
  return std::min(std::max(kUsual, longest), machine_bytes / 2);
}

}  // namespace spillway
