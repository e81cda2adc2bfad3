// SPDX-License-Identifier: Apache-2.0
#pragma once

// The first words between two nodes. Who sends plans controls the others' GPUs, so both sides show that they
// have the key before anything else is read, each by the other's random number (HMAC-SHA-256): the key itself
// does not travel.
//
//   follower -> leader   Hello      who it is, its random number
//   leader -> follower   Challenge  its own random number, proof
//   follower -> leader   Proof
//   leader -> follower   Welcome    its ranks, all options that must agree, the model's fingerprint
//
// Either side may answer with kGiveUp and a sentence.

#include <cstdint>
#include <filesystem>
#include <string>

#include "gpu/device.hpp"
#include "gpu/ranks/fingerprint.hpp"
#include "gpu/ranks/link.hpp"
#include "gpu/wire.hpp"
#include "model/tensor.hpp"

namespace spillway::gpu::ranks {

/// Of everything that is said on a link, plans included (plan_wire.cpp); another version is refused.
inline constexpr std::uint32_t kWireVersion = 1;

enum class Message : std::uint8_t {
  kHello = 1,
  kChallenge,
  kProof,
  kWelcome,
  kShare,   // bytes
  kValue,   // of a node, std::uint64_t
  kAgreed,  // the smallest of all nodes' values
  kStep,
  kCopy,
  kAlive,   // a follower that works on
  kEnd,     // no plan comes any more
  kGiveUp,  // a sentence
};

/// What all nodes must have alike.
struct SharedOptions {
  std::uint32_t nodes = 2, tensor_parallel_size = 2;  // ranks, the same number on each node
  DeviceOptions device;
  double gpu_memory_utilization = 0.9;
  bool dummy_weights = false;  // random, of the model's shape
  model::DType dummy_dtype = model::DType::kBF16;
  bool dequantize = false, graphs = true;
};

struct Welcome {
  SharedOptions options;
  Fingerprint model;
};

/// A key from a file, without its line end. Errors: kNotFound, kInvalidArgument for one under 16 bytes.
[[nodiscard]] Result<std::string> read_key(const std::filesystem::path& file);

/// The follower's side, up to the Welcome. Errors: what the leader answered; kDeadlineExceeded;
/// kInvalidArgument.
[[nodiscard]] Result<Welcome> greet_leader(Link& link, std::uint32_t node, const std::string& key,
                                           Clock::time_point deadline);

/// The leader's side, up to the follower's proof: its node number. Errors: why it is refused; it has been
/// told.
[[nodiscard]] Result<std::uint32_t> greet_follower(Link& link, std::uint32_t nodes, const std::string& key,
                                                   Clock::time_point deadline);

[[nodiscard]] Result<void> send_message(Link& link, Message kind, std::span<const std::byte> body = {});
[[nodiscard]] Result<void> send_welcome(Link& link, const Welcome& welcome);
/// Does not hear of errors: the other side is given up anyway.
void send_give_up(Link& link, const std::string& why);
/// A sentence of the other side's, fit for a terminal.
[[nodiscard]] std::string text_of(std::span<const std::byte> body);

}  // namespace spillway::gpu::ranks
