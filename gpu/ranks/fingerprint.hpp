// SPDX-License-Identifier: Apache-2.0
#pragma once

// Fingerprint: whether two nodes opened the same model. Config and tensors (names, types, shapes, sizes)
// count whole, of the weights' bytes three pages of each tensor: cheap for 100 GB, and two models that differ
// do so nearly everywhere.

#include <span>

#include "gpu/ranks/digest.hpp"
#include "model/spec.hpp"
#include "runtime/result.hpp"

namespace spillway::gpu::ranks {

struct Fingerprint {
  Digest config{}, tensors{}, weights{};
  friend bool operator==(const Fingerprint&, const Fingerprint&) = default;
};

/// `tensors`: none for weights that are made up.
[[nodiscard]] Fingerprint fingerprint(const model::ModelSpec& spec,
                                      std::span<const model::TensorView* const> tensors);

/// Errors: kInvalidArgument, what `ours` has different from the leader's.
[[nodiscard]] Result<void> check_same(const Fingerprint& leaders, const Fingerprint& ours);

}  // namespace spillway::gpu::ranks
