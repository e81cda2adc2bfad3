// SPDX-License-Identifier: Apache-2.0
#include "gpu/ranks/fingerprint.hpp"

#include <algorithm>
#include <string>

#include "gpu/wire.hpp"

namespace spillway::gpu {

template <>
inline constexpr std::int64_t kLastOf<model::NormKind> = static_cast<int>(model::NormKind::kLayer);
template <>
inline constexpr std::int64_t kLastOf<model::NormPlace> = static_cast<int>(model::NormPlace::kPost);
template <>
inline constexpr std::int64_t kLastOf<model::PositionKind> = static_cast<int>(model::PositionKind::kLearned);
template <>
inline constexpr std::int64_t kLastOf<model::MlpKind> = static_cast<int>(model::MlpKind::kPlain);
template <>
inline constexpr std::int64_t kLastOf<model::Activation> = static_cast<int>(model::Activation::kGeluTanh);

template <class Io, Is<model::RopeSpec> S>
void fields(Io& io, S& s) {
  auto& [inv_freq, rotary_dim, interleaved] = s;
  io(inv_freq, rotary_dim, interleaved);
}

/// `name` is for people: the directory's.
template <class Io, Is<model::ModelSpec> S>
void fields(Io& io, S& s) {
  auto& [architecture, name, vocab_size, hidden_size, embedding_size, intermediate_size, num_layers,
         num_heads, num_kv_heads, head_dim, max_position, norm, norm_place, norm_eps, position,
         position_offset, rope, mlp, activation, attention_scale, sliding_window, tied_embeddings] = s;
  io(architecture, vocab_size, hidden_size, embedding_size, intermediate_size, num_layers, num_heads,
     num_kv_heads, head_dim, max_position, norm, norm_place, norm_eps, position, position_offset, rope, mlp,
     activation, attention_scale, sliding_window, tied_embeddings);
}

}  // namespace spillway::gpu

namespace spillway::gpu::ranks {
namespace {

constexpr std::size_t kPage = 4096;

Digest digest_of(std::span<const std::byte> bytes) {
  Sha256 hash;
  hash.add(bytes);
  return hash.finish();
}

}  // namespace

Fingerprint fingerprint(const model::ModelSpec& spec, std::span<const model::TensorView* const> tensors) {
  WireWriter config, list;
  config(spec);
  Sha256 weights;
  for (const model::TensorView* tensor : tensors) {
    const std::span<const std::byte> data = tensor->data;
    list(tensor->name, std::string(model::to_string(tensor->dtype)), tensor->shape,
         std::uint64_t{data.size()});
    const std::size_t page = std::min(kPage, data.size());
    for (const std::size_t at : {std::size_t{0}, (data.size() - page) / 2, data.size() - page})
      weights.add(data.subspan(at, page));
  }
  return {digest_of(config.bytes()), digest_of(list.bytes()), weights.finish()};
}

Result<void> check_same(const Fingerprint& leaders, const Fingerprint& ours) {
  const char* different = ours.config != leaders.config
                              ? "its configuration (architecture, sizes, rotary embedding, ...) differs"
                          : ours.tensors != leaders.tensors ? "its tensors' names, types or shapes differ"
                          : ours.weights != leaders.weights ? "its weights differ"
                                                            : nullptr;
  if (different == nullptr) return {};
  return Error{Errc::kInvalidArgument, std::string("the model here is not the leader's: ") + different};
}

}  // namespace spillway::gpu::ranks
