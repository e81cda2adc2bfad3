// SPDX-License-Identifier: Apache-2.0
#pragma once

// Finds a family's tensors in a file, under the names its scheme gives them, and holds every shape to the
// spec.

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/families.hpp"
#include "model/spec.hpp"
#include "runtime/result.hpp"

namespace spillway::model {

/// The tensors of a weight file or of a directory's shards, by name.
class TensorSource {
 public:
  virtual ~TensorSource() = default;
  [[nodiscard]] virtual bool has(std::string_view name) const = 0;
  /// Errors: kNotFound, kUnsupported for its type; they name file and tensor.
  [[nodiscard]] virtual Result<TensorView> tensor(std::string_view name) const = 0;
  [[nodiscard]] virtual std::vector<std::string_view> names() const = 0;
  /// File that holds the tensor, or all of them when it is not there.
  [[nodiscard]] virtual std::string place(std::string_view name) const = 0;
};

/// All tensors the description asks for. Errors (kBadFile, kUnsupported) name file and tensor: missing, of
/// another shape (found and wanted are given), of a type this build cannot use, or not part of such a model
/// at all: an unknown tensor means an option that is not understood, and would make wrong answers.
[[nodiscard]] Result<Weights> map_weights(const TensorSource& source, const TensorScheme& scheme,
                                          const Description& model);

}  // namespace spillway::model
