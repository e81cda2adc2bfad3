// SPDX-License-Identifier: Apache-2.0
#include "actors/engine.hpp"

#include <unistd.h>
#include <algorithm>
#include <fstream>

#include "actors/engine_device.hpp"
#include "model/inspect.hpp"
#include "runtime/check.hpp"
#include "runtime/thread_executor.hpp"
#include "runtime/tracer.hpp"

namespace spillway {
namespace {

constexpr std::uint32_t kServingWorker = 0, kSessionWorker = 1;
constexpr std::uint32_t kSpinUs = 100;

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

/// Errors begin with the option.
Result<void> check_sparse(const EngineOptions& options) {
  const model::SparseKvParams& params = options.sparse_kv;
  const auto wrong = [](std::string text) { return Error{Errc::kInvalidArgument, std::move(text)}; };
  if (!params.on()) {
    if (options.sparse_kv_per_request || (params == model::SparseKvParams{} && options.sparse_kv_budget_min == 0))
      return {};
    return wrong(
        "the --sparse-kv-cache options do nothing without --sparse-kv-cache-method or "
        "--sparse-kv-cache-per-request");
  }
  if (Result<void> valid = model::validate(params); !valid.ok()) {
    const std::string& message = valid.error().message;
    const std::size_t field = message.find(": ");
    return wrong("--sparse-kv-cache-method " + std::string(model::name_of(params.method)) + message.substr(field));
  }
  if (params.budget != 0 && params.budget < options.sparse_kv_budget_min) {
    return wrong("--sparse-kv-cache-min-budget is " + std::to_string(options.sparse_kv_budget_min) +
                 ", more than --sparse-kv-cache-budget (" + std::to_string(params.budget) + ")");
  }
  return {};
}

Result<void> check_options(const EngineOptions& options, const model::ModelSpec& spec) {
  const auto wrong = [](std::string text) { return Error{Errc::kInvalidArgument, std::move(text)}; };
  if (options.max_num_seqs > 4096) return wrong("--max-num-seqs must be 1 to 4096");
  if (options.max_num_seqs != 0 && options.max_num_batched_tokens != 0 &&
      (options.max_num_batched_tokens < options.max_num_seqs || options.max_num_batched_tokens > 65536)) {
    return wrong("--max-num-batched-tokens is " + std::to_string(options.max_num_batched_tokens) +
                 "; it must be at least --max-num-seqs (" + std::to_string(options.max_num_seqs) +
                 "), so that every running sequence gets its token, and at most 65536");
  }
  if (options.async_submit == 0 || options.async_submit > 8) return wrong("--async-submit must be 1 to 8");
  if (spec.max_position > 0 && options.max_model_len > static_cast<std::uint32_t>(spec.max_position)) {
    return wrong("--max-model-len is " + std::to_string(options.max_model_len) +
                 ", but the model was trained for " + std::to_string(spec.max_position) + " positions");
  }
  if (options.gpu_memory_utilization <= 0 || options.gpu_memory_utilization > 1)
    return wrong("--gpu-memory-utilization must be above 0 and at most 1");
  if (options.max_itl_stretch != 0 && !(options.max_itl_stretch > 1 && options.max_itl_stretch <= 1000))
    return wrong("--max-itl-stretch must be above 1, or 0 for no limit");
  const std::uint32_t nodes = options.nodes.nodes, ranks = options.tensor_parallel_size;
  if (nodes == 0 || (nodes > 1 && (ranks < nodes || ranks % nodes != 0))) {
    return wrong("--nnodes is " + std::to_string(nodes) + ", among which --tensor-parallel-size " + std::to_string(ranks) +
                 " cannot be shared evenly");
  }
  if (nodes > 1 && (options.device == DeviceKind::kHost || options.simulate_device))
    return wrong("--nnodes " + std::to_string(nodes) + " is for GPUs, and --device host is none");
  if (options.threads > 1024) return wrong("--threads must be at most 1024");
  return check_sparse(options);
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
  std::unique_ptr<actors::Serving> serving;  // holds the device's sink
  EngineDevice device;
  std::unique_ptr<runtime::ThreadExecutor> executor;
  bool shut_down = false;

  State(EngineOptions o, model::Model m) : options(std::move(o)), model(std::move(m)) {}
};

Engine::Engine(std::unique_ptr<State> state) : state_(std::move(state)) {}

Engine::~Engine() { shutdown(); }

Result<std::unique_ptr<Engine>> Engine::create(EngineOptions options) {
  Result<model::Model> model = model::Model::load(options.model, options.load_format);
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
  if (!set.trace.empty()) {
    // Fail now rather than after the work.
    if (!std::ofstream(set.trace, std::ios::app))
      return Error{Errc::kIo, "cannot write the trace file " + set.trace.string()};
    state->tracer = std::make_unique<runtime::Tracer>();
  }
  const auto executor = [state = state.get()]() -> runtime::Executor& { return *state->executor; };
  Result<EngineDevice> device =
      set.simulate_device
          ? open_simulated_device(set, state->model, state->max_model_len, kServingWorker, executor)
          : open_engine_device(set, state->model, state->max_model_len, state->tracer.get());
  if (!device.ok()) return std::move(device).error();
  state->device = *std::move(device);

  // Beside the host device workers park at once and are not pinned: it wants every core. A GPU wants to be
  // fed at once, and its events to be looked at.
  const bool polls = state->device.device->info().needs_polling;
  state->executor = std::make_unique<runtime::ThreadExecutor>(runtime::ThreadOptions{
      .workers = 2,
      .spin = polls ? runtime::SpinPolicy::spin_then_park(kSpinUs) : runtime::SpinPolicy::park(),
      .pin = false,
      .name = "spillway",
      .tracer = state->tracer.get()});

  const auto eos = state->tokenizer ? state->tokenizer->eos_ids() : state->model.eos_ids();
  state->serving = std::make_unique<actors::Serving>(
      *state->executor, actors::ServingConfig{.device = state->device.device.get(),
                                              .device_options = state->device.options,
                                              .vocab_size = spec.vocab_size,
                                              .max_model_len = state->max_model_len,
                                              .eos_ids = {eos.begin(), eos.end()},
                                              .tokenizer = state->tokenizer ? &*state->tokenizer : nullptr,
                                              .prefix_caching = set.enable_prefix_caching,
                                              .usual_blocks = state->device.usual_blocks,
                                              .max_itl_stretch = set.max_itl_stretch,
                                              .sparse_default = set.sparse_kv,
                                              .sparse_budget_min = set.sparse_kv_budget_min,
                                              .on_slots = set.on_slots,
                                              .worker = kServingWorker,
                                              .stall_limit = set.stall_limit});
  if (polls) state->executor->add_poller(kServingWorker, state->device.poller.get());
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
  state_->device.device.reset();  // waits for steps in flight; their completions find no actor
  if (state_->tracer) (void)state_->tracer->write_file(state_->options.trace.string());
}

const model::Model& Engine::model() const noexcept { return state_->model; }
const model::Tokenizer* Engine::tokenizer() const noexcept {
  return state_->tokenizer ? &*state_->tokenizer : nullptr;
}
const gpu::DeviceInfo& Engine::device() const noexcept { return state_->device.device->info(); }
const std::string& Engine::why_host() const noexcept { return state_->device.why_host; }
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
    const auto& block_manager = state_->serving->block_manager_address();
    if (!block_manager.alive()) return client.post(actors::EngineSnapshot{tag, std::move(stats), {}, {}});
    block_manager.post(actors::DescribeBlocks{tag, client, std::move(stats), blocks});
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
  constexpr std::size_t kUsual = std::size_t{224} << 20;
  const std::size_t longest = kv_bytes_per_token(spec, dtype) * max_model_len;
  return std::min(std::max(kUsual, longest), machine_bytes / 2);
}

std::size_t grown_kv_cache_bytes(const model::ModelSpec& spec, gpu::KvDType dtype, std::uint32_t max_model_len,
                                 std::uint32_t max_num_seqs, std::size_t usual, std::size_t available_bytes) {
  constexpr std::size_t kMost = std::size_t{2} << 30;
  const std::size_t all = kv_bytes_per_token(spec, dtype) * max_model_len * max_num_seqs;
  return std::max(usual, std::min({kMost, all, available_bytes / 8}));
}

}  // namespace spillway
