// SPDX-License-Identifier: Apache-2.0
#include "gpu/plan_wire.hpp"

#include "tests/gpu/ranks/random_plans.hpp"
#include "tests/support/catch.hpp"

namespace spillway::gpu {
namespace {

using Bytes = std::vector<std::byte>;

template <class Plan>
Bytes bytes_of(const Plan& plan) {
  WireWriter out;
  encode(plan, out);
  return {out.bytes().begin(), out.bytes().end()};
}

/// What comes of bytes that were changed: an error, or a plan that says what the bytes say.
template <class Plan>
bool honest(const Bytes& bytes, Result<Plan> (*decode)(std::span<const std::byte>)) {
  const Result<Plan> plan = decode(bytes);
  return plan ? bytes_of(*plan) == bytes : !plan.error().message.empty();
}

}  // namespace

TEST_CASE("plan wire: every field of random plans comes back") {
  RandomPlans plans(11);
  for (int i = 0; i < 2000; ++i) {
    const StepPlan step = plans.step();
    const Result<StepPlan> read = decode_step(bytes_of(step));
    REQUIRE(read.ok());
    REQUIRE(equal(*read, step));
    const CopyPlan copy = plans.copy();
    const Result<CopyPlan> copied = decode_copy(bytes_of(copy));
    REQUIRE(copied.ok());
    REQUIRE(equal(*copied, copy));
  }
}

TEST_CASE("plan wire: what nobody set comes back too") {
  StepPlan plan;
  plan.row_inits.emplace_back().params.sparse_kv.emplace();
  plan.sequences.emplace_back();
  plan.sparse.emplace_back();
  const Result<StepPlan> read = decode_step(bytes_of(plan));
  REQUIRE(read.ok());
  CHECK(equal(*read, plan));
  CHECK(decode_copy(bytes_of(CopyPlan{})).ok());
}

TEST_CASE("plan wire: no two different plans are the same bytes, and a writer can be used again") {
  RandomPlans plans(12);
  WireWriter out;
  Bytes before;
  for (int i = 0; i < 200; ++i) {
    const StepPlan step = plans.step();
    out.clear();
    encode(step, out);
    const Bytes now(out.bytes().begin(), out.bytes().end());
    CHECK(now == bytes_of(step));
    CHECK(now != before);
    before = now;
  }
}

TEST_CASE("plan wire: a plan that was cut anywhere is an error") {
  RandomPlans plans(13);
  for (int i = 0; i < 60; ++i) {
    const Bytes step = bytes_of(plans.step()), copy = bytes_of(plans.copy());
    for (std::size_t size = 0; size < step.size(); ++size)
      REQUIRE_FALSE(decode_step(std::span(step).first(size)).ok());
    for (std::size_t size = 0; size < copy.size(); ++size)
      REQUIRE_FALSE(decode_copy(std::span(copy).first(size)).ok());
  }
}

TEST_CASE("plan wire: bytes behind a plan are an error that says so") {
  Bytes bytes = bytes_of(RandomPlans(14).step());
  bytes.push_back(std::byte{0});
  const Result<StepPlan> plan = decode_step(bytes);
  REQUIRE_FALSE(plan.ok());
  CHECK(plan.error().message == "a step's plan holds more than it should");
}

TEST_CASE("plan wire: flipped and made-up bytes are an error or another plan, never a crash") {
  RandomPlans plans(15);
  int refused = 0, taken = 0;
  for (int i = 0; i < 20000; ++i) {
    Bytes bytes = bytes_of(plans.step());
    for (std::uint32_t flips = 1 + plans.below(4); flips > 0 && !bytes.empty(); --flips)
      bytes[plans.below(static_cast<std::uint32_t>(bytes.size()))] = static_cast<std::byte>(plans.below(256));
    REQUIRE(honest(bytes, &decode_step));
    ++(decode_step(bytes).ok() ? taken : refused);
    Bytes noise(plans.below(200));
    for (std::byte& b : noise) b = static_cast<std::byte>(plans.below(256));
    REQUIRE(honest(noise, &decode_step));
    REQUIRE(honest(noise, &decode_copy));
  }
  CHECK(refused > 1000);
  CHECK(taken > 1000);
}

TEST_CASE("plan wire: a count that no plan holds takes no memory") {
  Bytes bytes(12, std::byte{0xff});  // 2^32 - 1 row_inits
  CHECK_FALSE(decode_step(bytes).ok());
  bytes.assign(5, std::byte{0xff});
  bytes[0] = std::byte{0};
  CHECK_FALSE(decode_copy(bytes).ok());
}

TEST_CASE("plan wire: enumerators and bools that do not exist are refused") {
  Bytes bytes = bytes_of(CopyPlan{});
  bytes[0] = std::byte{3};
  const Result<CopyPlan> plan = decode_copy(bytes);
  REQUIRE_FALSE(plan.ok());
  CHECK(plan.error().message == "a copy's plan holds an enumerator that does not exist");
  StepPlan step;
  step.sequences.emplace_back();
  bytes = bytes_of(step);
  constexpr std::size_t kTokenFromRow = 8 + 4 + 4 + 7 * 4;
  bytes[kTokenFromRow] = std::byte{2};
  const Result<StepPlan> read = decode_step(bytes);
  REQUIRE_FALSE(read.ok());
  CHECK(read.error().message == "a step's plan holds a bool that is neither");
}

}  // namespace spillway::gpu
