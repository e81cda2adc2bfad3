// SPDX-License-Identifier: Apache-2.0
#pragma once

// SHA-256, HMAC-SHA-256 and random bytes, by OpenSSL.

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

namespace spillway::gpu::ranks {

using Digest = std::array<std::uint8_t, 32>;

class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;
  void add(std::span<const std::byte> bytes);
  [[nodiscard]] Digest finish();

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

[[nodiscard]] Digest hmac(std::string_view key, std::span<const std::byte> bytes);
/// In a time that does not tell where they differ.
[[nodiscard]] bool same(const Digest& a, const Digest& b);
/// Not to be guessed.
[[nodiscard]] Digest random_digest();

}  // namespace spillway::gpu::ranks
