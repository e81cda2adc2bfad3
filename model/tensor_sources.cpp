// SPDX-License-Identifier: Apache-2.0
#include "model/tensor_sources.hpp"

#include "model/gguf.hpp"
#include "model/quote.hpp"
#include "model/safetensors.hpp"

namespace spillway::model {

bool GgufSource::has(std::string_view name) const { return file_.find_tensor(name) != nullptr; }

Result<TensorView> GgufSource::tensor(std::string_view name) const { return file_.tensor(name); }

std::vector<std::string_view> GgufSource::names() const {
  std::vector<std::string_view> out;
  out.reserve(file_.tensors().size());
  for (const GgufTensor& tensor : file_.tensors()) out.push_back(tensor.name);
  return out;
}

std::string GgufSource::place(std::string_view) const { return file_.name(); }

bool SafetensorsSource::has(std::string_view name) const { return files_.find(name) != nullptr; }

Result<TensorView> SafetensorsSource::tensor(std::string_view name) const {
  const SafetensorsEntry* entry = files_.find(name);
  if (entry == nullptr) {
    return Error{Errc::kNotFound, place(name) + ": tensor " + quote(name) + " is missing"};
  }
  if (!entry->dtype) {
    return Error{Errc::kUnsupported, place(name) + ": tensor " + quote(name) + " has dtype " +
                                         quote(entry->dtype_name) + "; supported are F32, F16, BF16"};
  }
  return TensorView{entry->name, *entry->dtype, entry->shape, entry->data};
}

std::vector<std::string_view> SafetensorsSource::names() const {
  std::vector<std::string_view> out;
  out.reserve(files_.entries().size());
  for (const SafetensorsEntry& entry : files_.entries()) out.push_back(entry.name);
  return out;
}

std::string SafetensorsSource::place(std::string_view name) const {
  const SafetensorsEntry* entry = files_.find(name);
  if (entry != nullptr) return files_.file_of(*entry);
  return files_.mappings().size() == 1 ? files_.mappings().front().name() : files_.directory();
}

}  // namespace spillway::model
