// SPDX-License-Identifier: Apache-2.0
#include "actors/block_pool.hpp"

#include <algorithm>

#include "runtime/check.hpp"

namespace spillway::actors {

BlockPool::BlockPool(std::uint32_t num_blocks, std::uint32_t block_size, bool prefix_caching,
                     std::uint32_t usual_blocks)
    : block_size_(block_size),
      prefix_caching_(prefix_caching),
      usual_blocks_(usual_blocks),
      blocks_(num_blocks) {
  SPW_CHECK(block_size > 0);
  free_.reserve(num_blocks);
  for (std::uint32_t i = num_blocks; i-- > 0;) free_.push_back(i);
}

const BlockPool::Block& BlockPool::at(gpu::BlockId id) const {
  const auto index = static_cast<std::uint32_t>(id);
  SPW_CHECK(index < blocks_.size());
  return blocks_[index];
}

BlockPool::Block& BlockPool::at(gpu::BlockId id) {
  return const_cast<Block&>(static_cast<const BlockPool*>(this)->at(id));
}

void BlockPool::unlink(std::uint32_t index) {
  Block& block = blocks_[index];
  SPW_CHECK(block.cached);
  (block.previous == kNone ? oldest_ : blocks_[block.previous].next) = block.next;
  (block.next == kNone ? newest_ : blocks_[block.next].previous) = block.previous;
  block.previous = block.next = kNone;
  block.cached = false;
}

void BlockPool::forget(Block& block) {
  if (block.name.empty()) return;
  index_.erase(block.name);
  block.name = {};
  block.tokens.clear();
}

std::optional<gpu::BlockId> BlockPool::allocate() {
  std::uint32_t index;
  // Blocks that never were used lie at the bottom of the stack, the first on top of them.
  const bool has_free =
      !free_.empty() && (free_.back() < std::max(touched_, usual_blocks_) || oldest_ == kNone);
  if (has_free) {
    index = free_.back();
    free_.pop_back();
    touched_ = std::max(touched_, index + 1);
  } else if (oldest_ != kNone) {
    index = oldest_;
    unlink(index);
    forget(blocks_[index]);
  } else {
    return std::nullopt;
  }
  SPW_CHECK(blocks_[index].references == 0);
  blocks_[index].references = 1;
  ++held_;
  return gpu::BlockId{index};
}

void BlockPool::retain(gpu::BlockId id) {
  Block& block = at(id);
  SPW_CHECK(block.references > 0);
  ++block.references;
}

void BlockPool::release(gpu::BlockId id) {
  Block& block = at(id);
  SPW_CHECK(block.references > 0);
  if (--block.references > 0) return;
  --held_;
  const auto index = static_cast<std::uint32_t>(id);
  if (block.name.empty()) {
    free_.push_back(index);
    return;
  }
  block.cached = true;
  block.previous = newest_;
  block.next = kNone;
  (newest_ == kNone ? oldest_ : blocks_[newest_].next) = index;
  newest_ = index;
}

std::optional<gpu::BlockId> BlockPool::find_and_retain(const PrefixHash& name,
                                                       std::span<const model::TokenId> tokens) {
  if (!prefix_caching_) return std::nullopt;
  const auto found = index_.find(name);
  if (found == index_.end()) return std::nullopt;
  Block& block = blocks_[found->second];
  if (!std::ranges::equal(block.tokens, tokens)) return std::nullopt;
  if (block.references == 0) {
    unlink(found->second);
    ++held_;
  }
  ++block.references;
  return gpu::BlockId{found->second};
}

void BlockPool::publish(gpu::BlockId id, const PrefixHash& name, std::span<const model::TokenId> tokens) {
  if (!prefix_caching_) return;
  Block& block = at(id);
  SPW_CHECK(block.references > 0);
  SPW_CHECK(tokens.size() == block_size_);
  if (!block.name.empty()) return;
  if (!index_.try_emplace(name, static_cast<std::uint32_t>(id)).second) return;
  block.name = name;
  block.tokens.assign(tokens.begin(), tokens.end());
}

std::vector<BlockState> BlockPool::states() const {
  std::vector<BlockState> states;
  states.reserve(blocks_.size());
  for (const Block& block : blocks_) {
    states.push_back(block.references > 1    ? BlockState::kShared
                     : block.references == 1 ? BlockState::kHeld
                     : block.cached          ? BlockState::kCached
                                             : BlockState::kFree);
  }
  return states;
}

std::string BlockPool::check() const {
  std::uint32_t held = 0, cached = 0;
  for (std::uint32_t i = 0; i < blocks_.size(); ++i) {
    const Block& block = blocks_[i];
    held += block.references > 0;
    cached += block.cached;
    if (block.cached && block.references > 0) return "block " + std::to_string(i) + " is cached and held";
    if (block.cached && block.name.empty()) return "block " + std::to_string(i) + " is cached without a name";
    if (!block.name.empty()) {
      const auto found = index_.find(block.name);
      if (found == index_.end() || found->second != i) {
        return "block " + std::to_string(i) + " has a name that the index does not know";
      }
    }
  }
  if (held != held_) return "held counter " + std::to_string(held_) + ", really " + std::to_string(held);
  std::vector<bool> seen(blocks_.size());
  for (const std::uint32_t i : free_) {
    if (seen[i]) return "block " + std::to_string(i) + " is free twice";
    seen[i] = true;
    if (blocks_[i].references > 0 || blocks_[i].cached || !blocks_[i].name.empty()) {
      return "block " + std::to_string(i) + " is free and in use";
    }
  }
  std::uint32_t listed = 0;
  for (std::uint32_t i = oldest_; i != kNone; i = blocks_[i].next) ++listed;
  if (listed != cached) return "the cached list has lost a block";
  if (held + cached + free_.size() != blocks_.size()) return "held + cached + free is not the total";
  return {};
}

}  // namespace spillway::actors
