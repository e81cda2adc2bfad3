// SPDX-License-Identifier: Apache-2.0
#include "gpu/ranks/handshake.hpp"

#include <algorithm>
#include <array>
#include <fstream>
#include <string_view>
#include <utility>

namespace spillway::gpu {
namespace ranks {
namespace {

using Magic = std::array<char, 8>;
constexpr Magic kMagic{'S', 'P', 'W', 'R', 'A', 'N', 'K', 'S'};
constexpr std::size_t kKeyBytesMin = 16;

struct Hello {
  Magic magic = kMagic;
  std::uint32_t version = kWireVersion;
  std::string program = SPILLWAY_VERSION;
  std::uint32_t node = 0;
  Digest nonce{};
};

struct Challenge {
  Digest nonce{}, proof{};
};

}  // namespace
}  // namespace ranks

template <>
inline constexpr std::int64_t kLastOf<KvDType> = static_cast<int>(KvDType::kQ8_0);
template <>
inline constexpr std::int64_t kLastOf<model::DType> = static_cast<int>(model::DType::kQ5_1);

template <class Io, Is<ranks::Hello> S>
void fields(Io& io, S& s) {
  auto& [magic, version, program, node, nonce] = s;
  io(magic, version, program, node, nonce);
}
template <class Io, Is<ranks::Challenge> S>
void fields(Io& io, S& s) {
  auto& [nonce, proof] = s;
  io(nonce, proof);
}
template <class Io, Is<DeviceOptions> S>
void fields(Io& io, S& s) {
  auto& [kv_dtype, block_size, kv_cache_memory_bytes, host_pool_bytes, max_num_seqs, max_num_batched_tokens,
         max_model_len, max_steps_in_flight, sparse_kv] = s;
  io(kv_dtype, block_size, kv_cache_memory_bytes, host_pool_bytes, max_num_seqs, max_num_batched_tokens,
     max_model_len, max_steps_in_flight, sparse_kv);
}
template <class Io, Is<ranks::SharedOptions> S>
void fields(Io& io, S& s) {
  auto& [nodes, tensor_parallel_size, device, gpu_memory_utilization, dummy_weights, dummy_dtype, dequantize,
         graphs] = s;
  io(nodes, tensor_parallel_size, device, gpu_memory_utilization, dummy_weights, dummy_dtype, dequantize,
     graphs);
}
template <class Io, Is<ranks::Fingerprint> S>
void fields(Io& io, S& s) {
  auto& [config, tensors, weights] = s;
  io(config, tensors, weights);
}
template <class Io, Is<ranks::Welcome> S>
void fields(Io& io, S& s) {
  auto& [options, model] = s;
  io(options, model);
}

namespace ranks {
namespace {

/// What shows that a side has the key: bound to both random numbers, the side and the node.
Digest proof_of(const std::string& key, const std::string& side, const Digest& followers,
                const Digest& leaders, std::uint32_t node) {
  WireWriter said;
  said(side, followers, leaders, node);
  return hmac(key, said.bytes());
}

template <class T>
Result<T> read(std::span<const std::byte> body, const char* what) {
  WireReader in(body);
  T value;
  in(value);
  if (Result<void> good = in.finish(what); !good) return good.error();
  return value;
}

/// The next frame, which must be of this kind; kGiveUp becomes its error.
Result<std::span<const std::byte>> expect(Link& link, Message kind, Clock::time_point deadline) {
  const Result<Frame> frame = link.receive_by(deadline);
  if (!frame) return frame.error();
  if (frame->kind == static_cast<std::uint8_t>(Message::kGiveUp))
    return Error{Errc::kInvalidArgument, text_of(frame->body)};
  if (frame->kind != static_cast<std::uint8_t>(kind))
    return Error{Errc::kInvalidArgument, "it does not speak as a node does"};
  return frame->body;
}

template <class T>
Result<void> send_value(Link& link, Message kind, const T& value) {
  WireWriter out;
  out(value);
  return send_message(link, kind, out.bytes());
}

/// Why a hello is refused, or nothing.
std::string wrong_with(const Hello& hello, std::uint32_t nodes) {
  if (hello.version != kWireVersion || hello.program != SPILLWAY_VERSION) {
    return "it is spillway " + hello.program + " (wire version " + std::to_string(hello.version) +
           "), the leader " + SPILLWAY_VERSION + " (" + std::to_string(kWireVersion) + ")";
  }
  if (hello.node == 0 || hello.node >= nodes) {
    return "its --node-rank is " + std::to_string(hello.node) + "; with --nnodes " + std::to_string(nodes) +
           " there are 1 to " + std::to_string(nodes - 1);
  }
  return {};
}

}  // namespace

Result<std::string> read_key(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::string key;
  if (!file || !std::getline(file, key))
    return Error{Errc::kNotFound, "--master-key-file: cannot read " + path.string()};
  while (!key.empty() && (key.back() == '\r' || key.back() == ' ')) key.pop_back();
  if (key.size() >= kKeyBytesMin) return key;
  return Error{Errc::kInvalidArgument, "--master-key-file: the key in " + path.string() + " has " +
                                           std::to_string(key.size()) + " bytes; use at least " +
                                           std::to_string(kKeyBytesMin) + " random ones"};
}

Result<Welcome> greet_leader(Link& link, std::uint32_t node, const std::string& key,
                             Clock::time_point deadline) {
  const Hello hello{.node = node, .nonce = random_digest()};
  if (Result<void> sent = send_value(link, Message::kHello, hello); !sent) return sent.error();
  const auto body = expect(link, Message::kChallenge, deadline);
  if (!body) return body.error();
  const auto challenge = read<Challenge>(*body, "the leader's challenge");
  if (!challenge) return challenge.error();
  if (!same(challenge->proof, proof_of(key, "leader", hello.nonce, challenge->nonce, node))) {
    send_give_up(link, "its key is not the leader's");
    return Error{Errc::kInvalidArgument, "its key is not the one here (--master-key-file)"};
  }
  const Digest proof = proof_of(key, "follower", hello.nonce, challenge->nonce, node);
  if (Result<void> sent = send_value(link, Message::kProof, proof); !sent) return sent.error();
  link.limit_frames(kFrameMax);
  const auto answer = expect(link, Message::kWelcome, deadline);
  if (!answer) return answer.error();
  return read<Welcome>(*answer, "the leader's welcome");
}

Result<std::uint32_t> greet_follower(Link& link, std::uint32_t nodes, const std::string& key,
                                     Clock::time_point deadline) {
  const auto refuse = [&](std::string why) {
    send_give_up(link, why);
    return Error{Errc::kInvalidArgument, std::move(why)};
  };
  const auto body = expect(link, Message::kHello, deadline);
  if (!body) return body.error();
  const auto hello = read<Hello>(*body, "its hello");
  if (!hello || hello->magic != kMagic)
    return Error{Errc::kInvalidArgument, "it does not speak as a node does"};
  if (std::string wrong = wrong_with(*hello, nodes); !wrong.empty()) return refuse(std::move(wrong));
  Challenge challenge{.nonce = random_digest()};
  challenge.proof = proof_of(key, "leader", hello->nonce, challenge.nonce, hello->node);
  if (Result<void> sent = send_value(link, Message::kChallenge, challenge); !sent) return sent.error();
  const auto answer = expect(link, Message::kProof, deadline);
  if (!answer) return answer.error();
  const auto proof = read<Digest>(*answer, "its proof");
  if (!proof || !same(*proof, proof_of(key, "follower", hello->nonce, challenge.nonce, hello->node)))
    return refuse("its key is not the leader's");
  link.limit_frames(kStrangersFrameMax * 64);  // a follower has little to say
  return hello->node;
}

Result<void> send_message(Link& link, Message kind, std::span<const std::byte> body) {
  return link.send(static_cast<std::uint8_t>(kind), body);
}

Result<void> send_welcome(Link& link, const Welcome& welcome) {
  return send_value(link, Message::kWelcome, welcome);
}

void send_give_up(Link& link, const std::string& why) {
  (void)send_message(link, Message::kGiveUp, std::as_bytes(std::span(why)));
}

std::string text_of(std::span<const std::byte> body) {
  std::string text(reinterpret_cast<const char*>(body.data()), body.size());
  std::ranges::replace_if(
      text, [](char c) { return static_cast<unsigned char>(c) < ' ' || c == 127; }, '?');
  return text;
}

}  // namespace ranks
}  // namespace spillway::gpu
