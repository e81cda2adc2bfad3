// SPDX-License-Identifier: Apache-2.0
#include "actors/block_tables.hpp"

#include <numeric>

#include "tests/support/catch.hpp"

namespace spillway::actors {
namespace {

std::vector<model::TokenId> prompt(int length) {
  std::vector<model::TokenId> tokens(static_cast<std::size_t>(length));
  std::iota(tokens.begin(), tokens.end(), 100);
  return tokens;
}

BlockTables make(std::uint32_t blocks) { return BlockTables(BlockPool(blocks, 4, true)); }

LeaseId computed(BlockTables& tables, int length) {
  const Admission admission = tables.admit(prompt(length), {});
  REQUIRE(tables.extend_to(admission.lease, static_cast<std::uint32_t>(length)));
  tables.commit(admission.lease, static_cast<std::uint32_t>(length), {});
  return admission.lease;
}

TEST_CASE("block tables: a table grows all or nothing") {
  BlockTables tables = make(3);
  const Admission a = tables.admit(prompt(4), {});
  CHECK(tables.extend_to(a.lease, 9));
  CHECK(tables.blocks(a.lease)->size() == 3);
  const Admission b = tables.admit({7, 8}, {});
  CHECK_FALSE(tables.extend_to(b.lease, 1));
  CHECK(tables.blocks(b.lease)->empty());
  CHECK(tables.release(a.lease));
  CHECK(tables.extend_to(b.lease, 1));
  CHECK(tables.check().empty());
}

TEST_CASE("block tables: a second release of a lease is told apart") {
  BlockTables tables = make(2);
  const LeaseId lease = computed(tables, 4);
  CHECK(tables.release(lease));
  CHECK_FALSE(tables.release(lease));
}

TEST_CASE("block tables: a prompt seen before shares its full blocks but never its last token") {
  BlockTables tables = make(8);
  const LeaseId first = computed(tables, 8);
  const Admission same = tables.admit(prompt(8), {});
  CHECK(same.cached_tokens == 4);  // 8 would leave nothing to compute
  const Admission longer = tables.admit(prompt(9), {});
  CHECK(longer.cached_tokens == 8);
  CHECK((*tables.blocks(longer.lease))[0] == (*tables.blocks(first))[0]);
  CHECK(tables.check().empty());
}

TEST_CASE("block tables: a different salt shares nothing") {
  BlockTables tables = make(8);
  (void)computed(tables, 8);
  CHECK(tables.admit(prompt(9), PrefixHash{1, 2}).cached_tokens == 0);
}

TEST_CASE("block tables: what is not committed is not shared") {
  BlockTables tables = make(8);
  const Admission a = tables.admit(prompt(8), {});
  REQUIRE(tables.extend_to(a.lease, 8));
  CHECK(tables.admit(prompt(9), {}).cached_tokens == 0);
  tables.commit(a.lease, 5, {});
  CHECK(tables.admit(prompt(9), {}).cached_tokens == 4);
}

TEST_CASE("block tables: generated tokens become shareable too") {
  BlockTables tables = make(8);
  const Admission a = tables.admit(prompt(3), {});
  REQUIRE(tables.extend_to(a.lease, 5));
  tables.commit(a.lease, 3, std::vector<model::TokenId>{103});
  tables.commit(a.lease, 4, std::vector<model::TokenId>{104});
  CHECK(tables.admit(prompt(5), {}).cached_tokens == 4);
}

TEST_CASE("block tables: the tokens of a step count as live once it is handed out, shared ones once") {
  BlockTables tables = make(8);
  const Admission a = tables.admit(prompt(6), {});
  REQUIRE(tables.extend_to(a.lease, 6));
  CHECK(tables.slot_totals().slots == 8);
  CHECK(tables.slot_totals().live == 6);
  tables.commit(a.lease, 6, {});
  const Admission b = tables.admit(prompt(6), {});
  CHECK(b.cached_tokens == 4);
  CHECK(tables.slot_totals().live == 6);
  REQUIRE(tables.extend_to(b.lease, 6));
  CHECK(tables.slot_totals().slots == 12);
  CHECK(tables.slot_totals().live == 8);
  CHECK(tables.slot_totals().holes == 0);
  const Admission c = tables.admit_sparse(3, {.method = model::SparseMethod::kH2o, .budget = 8});
  REQUIRE(tables.step_slots(c.lease, 0, 3).has_value());
  CHECK(tables.slot_totals().slots == 16);
  CHECK(tables.slot_totals().live == 11);
}

TEST_CASE("block tables: a fork shares full blocks and copies the tail") {
  BlockTables tables = make(8);
  const LeaseId parent = computed(tables, 7);
  std::optional<TailCopy> copy;
  const Admission child = tables.fork(parent, prompt(7), {}, copy);
  CHECK(child.cached_tokens == 6);
  REQUIRE(copy.has_value());
  CHECK(copy->from == (*tables.blocks(parent))[1]);
  CHECK(copy->to == (*tables.blocks(child.lease))[1]);
  CHECK((*tables.blocks(child.lease))[0] == (*tables.blocks(parent))[0]);
  tables.pin(copy->from);
  CHECK(tables.release(parent));
  CHECK(tables.pool().references(copy->from) == 1);  // still being read
  tables.unpin(copy->from);
  CHECK(tables.release(child.lease));
  CHECK(tables.pool().held() == 0);
  CHECK(tables.check().empty());
}

TEST_CASE("block tables: a fork without a free block shares the full blocks only") {
  BlockTables tables = make(2);
  const LeaseId parent = computed(tables, 7);
  std::optional<TailCopy> copy;
  const Admission child = tables.fork(parent, prompt(7), {}, copy);
  CHECK_FALSE(copy.has_value());
  CHECK(child.cached_tokens == 4);
}

TEST_CASE("block tables: a fork of a table that is gone is an ordinary admission") {
  BlockTables tables = make(4);
  std::optional<TailCopy> copy;
  CHECK(tables.fork(LeaseId{99}, prompt(7), {}, copy).cached_tokens == 0);
}

TEST_CASE("block tables: a failed copy leaves only whole blocks trusted") {
  BlockTables tables = make(8);
  const LeaseId parent = computed(tables, 7);
  std::optional<TailCopy> copy;
  const Admission child = tables.fork(parent, prompt(7), {}, copy);
  CHECK(tables.distrust_tail(child.lease) == 4);
}

}  // namespace
}  // namespace spillway::actors
