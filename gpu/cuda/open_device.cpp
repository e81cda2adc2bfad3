// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda/open_device.hpp"

#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

namespace spillway::gpu::cuda {
namespace {

constexpr char kModule[] = "libspillway_cuda.so";

/// Beside the program, where the build tree and where an installation has it, then where the loader looks.
std::vector<std::string> module_paths() {
  if (const char* path = std::getenv("SPILLWAY_CUDA_MODULE"); path != nullptr) return {path};
  std::vector<std::string> paths;
  std::error_code failed;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", failed);
  if (!failed) {
    for (const char* folder : {".", "../gpu/cuda", "../../gpu/cuda", "../lib", "../lib/x86_64-linux-gnu"}) {
      std::filesystem::path path = program.parent_path() / folder / kModule;
      if (std::filesystem::exists(path, failed)) paths.push_back(path.lexically_normal().string());
    }
  }
  paths.emplace_back(kModule);
  return paths;
}

}  // namespace

Result<std::unique_ptr<Device>> open_cuda_device(
    const model::ModelSpec& spec, const model::Weights& weights, const DeviceOptions& options,
    const CudaOptions& cuda_options, const std::function<void(const model::TensorView&)>& on_uploaded) {
  // The driver first: without it there is no need to load the module and the libraries behind it, half a gigabyte.
  if (void* driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL); driver != nullptr) {
    (void)dlclose(driver);
  } else {
    return Error{Errc::kNotFound, "no CUDA device: there is no NVIDIA driver (libcuda.so.1)"};
  }
  void* module = nullptr;
  std::string why;
  for (const std::string& path : module_paths()) {
    module = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (module != nullptr) break;
    const char* error = dlerror();
    if (why.empty()) why = error != nullptr ? error : path;
  }
  if (module == nullptr) return Error{Errc::kNotFound, "the CUDA module cannot be loaded: " + why};
  // Never unloaded: objects made by it, and the CUDA runtime's own threads, outlive any good moment for that.
  const auto create = reinterpret_cast<CreateFn>(dlsym(module, kCreateSymbol));
  if (create == nullptr)
    return Error{Errc::kNotFound, std::string("the CUDA module is not of this program: ") + kCreateSymbol + " is missing"};
  Result<std::unique_ptr<Device>> device = Error{Errc::kInternal, "the CUDA module made no device"};
  create({&spec, &weights, &options, &cuda_options, &on_uploaded}, &device);
  return device;
}

}  // namespace spillway::gpu::cuda
