// SPDX-License-Identifier: Apache-2.0
// spillway worker: a node whose GPUs are ranks of the model that another node serves.

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <memory>
#include <utility>

#include "cli/command.hpp"
#include "cli/option_values.hpp"
#include "cli/options.hpp"
#include "cli/output.hpp"
#include "cli/report.hpp"
#include "gpu/cuda/open_device.hpp"
#include "gpu/ranks/joined_peers.hpp"
#include "model/loader.hpp"

namespace spillway::cli {
namespace {

using gpu::ranks::JoinedPeers;

struct WorkerOptions {
  std::filesystem::path model;
  NodeOptions nodes;
  std::uint32_t rank = 0;
};

Result<std::unique_ptr<JoinedPeers>> join(const WorkerOptions& options) {
  gpu::ranks::JoinOptions join{.host = options.nodes.master_addr,
                               .port = options.nodes.master_port,
                               .node = options.rank,
                               .timeout = options.nodes.timeout};
  if (!options.nodes.key_file.empty()) {
    Result<std::string> key = gpu::ranks::read_key(options.nodes.key_file);
    if (!key) return key.error();
    join.key = *std::move(key);
  }
  return JoinedPeers::join(std::move(join));
}

/// The leader's model, as it lies here.
Result<model::Model> load(const WorkerOptions& options, const JoinedPeers& peers) {
  const bool dummy = peers.welcome().options.dummy_weights;
  Result<model::Model> model =
      model::Model::load(options.model, dummy ? model::LoadFormat::kDummy : model::LoadFormat::kAuto);
  if (!model) return model;
  const gpu::ranks::Fingerprint ours = gpu::ranks::fingerprint(model->spec(), model->tensors());
  if (Result<void> same = gpu::ranks::check_same(peers.welcome().model, ours); !same)
    return Error{same.error().code, options.model.string() + ": " + same.error().message};
  return model;
}

Result<std::unique_ptr<gpu::Device>> open(const model::Model& model, JoinedPeers& peers) {
  const gpu::ranks::SharedOptions& shared = peers.welcome().options;
  gpu::cuda::CudaOptions cuda;
  cuda.tensor_parallel_size = shared.tensor_parallel_size;
  cuda.peers = &peers;
  cuda.gpu_memory_utilization = shared.gpu_memory_utilization;
  cuda.dummy_weights = shared.dummy_weights;
  cuda.dummy_dtype = shared.dummy_dtype;
  cuda.dequantize = shared.dequantize;
  cuda.graphs = shared.graphs;
  return gpu::cuda::open_cuda_device(
      model.spec(), model.weights(), shared.device, cuda,
      [&model](const model::TensorView& tensor) { model.release_pages(tensor); });
}

int run(const WorkerOptions& options) {
  Result<std::unique_ptr<JoinedPeers>> peers = join(options);
  if (!peers) return complain(peers.error());
  const auto fail = [&](const Error& why) {
    (*peers)->give_up(why);
    return complain(why);
  };
  const Result<model::Model> model = load(options, **peers);
  if (!model) return fail(model.error());
  Result<std::unique_ptr<gpu::Device>> device = open(*model, **peers);
  if (!device) return fail(device.error());
  {
    Output out;
    out.write("Spillway works for " + options.nodes.master_addr + ":" +
              std::to_string(options.nodes.master_port) + " as node " + std::to_string(options.rank) +
              " on " + (*device)->info().name + "\n");
    static_cast<void>(out.finish());
  }
  if (Result<void> done = (*peers)->follow(std::move(*device)); !done) return complain(done.error());
  return kDone;
}

}  // namespace

Run make_worker(CLI::App& command) {
  const auto options = std::make_shared<WorkerOptions>();
  add_model(command, options->model);
  add_number(command, "--node-rank", "this node's number, from 1 to node 0's --nnodes - 1", options->rank, 1,
             63)
      ->required();
  add_master_options(command, options->nodes);
  add_log_level(command);
  return [options] { return run(*options); };
}

}  // namespace spillway::cli
