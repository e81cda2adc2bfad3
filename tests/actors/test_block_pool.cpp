// SPDX-License-Identifier: Apache-2.0
#include "actors/block_pool.hpp"

#include <vector>

#include "tests/support/catch.hpp"

namespace spillway::actors {
namespace {

std::vector<model::TokenId> content(int first, int count) {
  std::vector<model::TokenId> tokens;
  for (int i = 0; i < count; ++i) tokens.push_back(first + i);
  return tokens;
}

TEST_CASE("block pool: every block can be had once and then none") {
  BlockPool pool(3, 4, true);
  std::vector<gpu::BlockId> blocks;
  while (auto block = pool.allocate()) blocks.push_back(*block);
  CHECK(blocks.size() == 3);
  CHECK(pool.available() == 0);
  CHECK(pool.check().empty());
  for (const auto block : blocks) pool.release(block);
  CHECK(pool.available() == 3);
  CHECK(pool.check().empty());
}

TEST_CASE("block pool: a shared block stays until its last reference goes") {
  BlockPool pool(2, 4, true);
  const auto block = *pool.allocate();
  pool.retain(block);
  pool.release(block);
  CHECK(pool.held() == 1);
  pool.release(block);
  CHECK(pool.held() == 0);
}

TEST_CASE("block pool: a block beyond the usual is first used when no cached one is left, then like any other") {
  BlockPool pool(4, 4, true, 2);
  const auto publish = [&](gpu::BlockId block, int first) {
    const std::vector<model::TokenId> tokens = content(first, 4);
    pool.publish(block, extend({}, tokens), tokens);
  };
  for (const int first : {0, 10, 20, 30}) {  // one sequence after the other leaves the two usual blocks cached
    const auto block = *pool.allocate();
    CHECK(static_cast<int>(block) < 2);
    publish(block, first);
    pool.release(block);
  }
  const auto first = *pool.allocate(), second = *pool.allocate();  // both cached ones are forgotten
  const auto third = *pool.allocate();
  CHECK(static_cast<int>(third) == 2);
  publish(third, 40);
  pool.release(third);
  CHECK(pool.allocate() == third);  // cached, and before block 3
  pool.release(third);              // its name was forgotten: free
  publish(first, 50);
  pool.release(first);
  CHECK(pool.allocate() == third);  // free and used before: a cached one stays
  CHECK(pool.allocate() == first);
  CHECK(pool.allocate() == gpu::BlockId{3});
  CHECK_FALSE(pool.allocate());
  CHECK(pool.check().empty());
  pool.release(second);
}

TEST_CASE("block pool: published content is found again after its release, and only by the same tokens") {
  BlockPool pool(2, 4, true);
  const auto tokens = content(7, 4);
  const PrefixHash name = extend({}, tokens);
  const auto block = *pool.allocate();
  pool.publish(block, name, tokens);
  pool.release(block);
  CHECK(pool.available() == 2);
  CHECK_FALSE(pool.find_and_retain(name, content(8, 4)).has_value());
  const auto found = pool.find_and_retain(name, tokens);
  REQUIRE(found.has_value());
  CHECK(*found == block);
  CHECK(pool.held() == 1);
  CHECK(pool.check().empty());
}

TEST_CASE("block pool: the least recently released cached block is forgotten first, after the free ones") {
  BlockPool pool(3, 1, true);
  std::vector<PrefixHash> names;
  std::vector<gpu::BlockId> blocks;
  for (int i = 0; i < 2; ++i) {
    const auto tokens = content(i, 1);
    names.push_back(extend({}, tokens));
    blocks.push_back(*pool.allocate());
    pool.publish(blocks.back(), names.back(), tokens);
  }
  pool.release(blocks[1]);
  pool.release(blocks[0]);
  (void)*pool.allocate();  // the free one
  CHECK(pool.find_and_retain(names[1], content(1, 1)).has_value());
  pool.release(blocks[1]);  // now the most recently released
  (void)*pool.allocate();
  CHECK_FALSE(pool.find_and_retain(names[0], content(0, 1)).has_value());
  CHECK(pool.find_and_retain(names[1], content(1, 1)).has_value());
  CHECK(pool.check().empty());
}

TEST_CASE("block pool: without prefix caching nothing is found") {
  BlockPool pool(1, 1, false);
  const auto tokens = content(1, 1);
  const auto block = *pool.allocate();
  pool.publish(block, extend({}, tokens), tokens);
  CHECK_FALSE(pool.find_and_retain(extend({}, tokens), tokens).has_value());
}

TEST_CASE("prefix hash: order, position and parent all count") {
  const std::vector<model::TokenId> ab{1, 2}, ba{2, 1};
  CHECK_FALSE(extend({}, ab) == extend({}, ba));
  CHECK_FALSE(extend(extend({}, ab), ab) == extend({}, ab));
  CHECK_FALSE(extend(extend({}, ab), ba) == extend(extend({}, ba), ab));
  CHECK(extend({}, ab) == extend({}, ab));
}

}  // namespace
}  // namespace spillway::actors
