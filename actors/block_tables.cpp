// SPDX-License-Identifier: Apache-2.0
#include "actors/block_tables.hpp"

#include <algorithm>
#include <numeric>

#include "runtime/check.hpp"

namespace spillway::actors {

Admission BlockTables::open(Table table) {
  const LeaseId lease{++last_lease_};
  const std::uint32_t cached = table.computed;
  tables_.emplace(lease, std::move(table));
  return {lease, cached};
}

Admission BlockTables::admit(std::vector<model::TokenId> tokens, PrefixHash salt) {
  const std::uint32_t block_size = pool_.block_size();
  Table table{.tokens = std::move(tokens), .name = salt};
  const std::span<const model::TokenId> known(table.tokens);
  while (table.computed + block_size < known.size()) {
    const auto content = known.subspan(table.computed, block_size);
    const PrefixHash name = extend(table.name, content);
    const auto block = pool_.find_and_retain(name, content);
    if (!block) break;
    table.blocks.push_back(*block);
    table.name = name;
    table.computed += block_size;
    ++table.named_blocks;
  }
  return open(std::move(table));
}

Admission BlockTables::fork(LeaseId parent, std::vector<model::TokenId> tokens, PrefixHash salt,
                            std::optional<TailCopy>& copy) {
  copy.reset();
  const auto found = tables_.find(parent);
  if (found == tables_.end() || tokens.empty()) return admit(std::move(tokens), salt);
  const Table& source = found->second;
  const std::uint32_t block_size = pool_.block_size();
  const auto shared_tokens =
      std::min<std::uint32_t>(source.computed, static_cast<std::uint32_t>(tokens.size()) - 1);
  const std::uint32_t full = shared_tokens / block_size;
  if (!std::equal(tokens.begin(), tokens.begin() + shared_tokens, source.tokens.begin())) {
    return admit(std::move(tokens), salt);
  }

  Table table{.name = salt};
  for (std::uint32_t i = 0; i < full; ++i) {
    pool_.retain(source.blocks[i]);
    table.blocks.push_back(source.blocks[i]);
    table.name = extend(table.name, std::span(tokens).subspan(std::size_t{i} * block_size, block_size));
  }
  table.computed = full * block_size;
  table.named_blocks = full;
  if (shared_tokens > table.computed) {
    if (const auto tail = pool_.allocate()) {
      copy = TailCopy{source.blocks[full], *tail};
      table.blocks.push_back(*tail);
      table.computed = shared_tokens;
    }
  }
  table.tokens = std::move(tokens);
  return open(std::move(table));
}

bool BlockTables::extend_to(LeaseId lease, std::uint32_t tokens) {
  const auto found = tables_.find(lease);
  if (found == tables_.end()) return false;
  Table& table = found->second;
  const std::uint32_t wanted = (tokens + pool_.block_size() - 1) / pool_.block_size();
  if (wanted > table.blocks.size() &&
      !allocate(wanted - static_cast<std::uint32_t>(table.blocks.size()), table.blocks))
    return false;
  table.written = std::max(table.written, tokens);
  return true;
}

bool BlockTables::allocate(std::uint32_t count, std::vector<gpu::BlockId>& blocks) {
  if (count > pool_.available()) return false;
  for (std::uint32_t i = 0; i < count; ++i) {
    const auto block = pool_.allocate();
    SPW_CHECK(block.has_value());
    blocks.push_back(*block);
  }
  return true;
}

Admission BlockTables::admit_sparse(std::uint32_t prompt_length, const model::SparseKvParams& params) {
  Table table;
  table.sparse = SparseTable{params, prompt_length, {}};
  return open(std::move(table));
}

std::optional<SlotGrant> BlockTables::step_slots(LeaseId lease, std::uint32_t first_position,
                                                 std::uint32_t tokens) {
  const auto found = tables_.find(lease);
  if (found == tables_.end()) return std::nullopt;
  Table& table = found->second;
  SPW_CHECK(table.sparse.has_value());
  SparseTable& sparse = *table.sparse;
  const std::uint32_t block_size = pool_.block_size();
  const auto blocks_of = [&](std::uint32_t slots) { return (slots + block_size - 1) / block_size; };
  SlotGrant grant;
  grant.step =
      plan_slots(sparse.slots, first_position, tokens, sparse.prompt_length, sparse.params, block_size);
  SlotStep& step = grant.step;
  const std::uint32_t wanted = blocks_of(step.span), held = static_cast<std::uint32_t>(table.blocks.size());
  if (wanted > held && !allocate(wanted - held, table.blocks)) return std::nullopt;
  grant.blocks.assign(table.blocks.begin(), table.blocks.begin() + wanted);
  if (step.packing == gpu::SparseStep::Packing::kCopy) {
    if (allocate(blocks_of(step.after.live), grant.copy_to)) {
      deferred_.insert(deferred_.end(), table.blocks.begin(), table.blocks.end());
      table.blocks = grant.copy_to;
    } else {  // no room for the copy: the holes stay until there is
      step.packing = gpu::SparseStep::Packing::kNone;
      step.after.span = step.span;
    }
  }
  const std::uint32_t needed = blocks_of(step.after.span);
  while (table.blocks.size() > needed) {
    deferred_.push_back(table.blocks.back());
    table.blocks.pop_back();
  }
  sparse.slots = step.after;
  table.computed = first_position + tokens;
  return grant;
}

void BlockTables::free_deferred() {
  for (const gpu::BlockId block : deferred_) pool_.release(block);
  deferred_.clear();
}

void BlockTables::drop_emptied(LeaseId lease, std::span<const gpu::BlockId> blocks) {
  const auto found = tables_.find(lease);
  if (found == tables_.end() || !found->second.sparse) return;
  Table& table = found->second;
  for (const gpu::BlockId block : blocks) {
    const auto place = std::ranges::find(table.blocks, block);
    if (place == table.blocks.end()) continue;
    table.blocks.erase(place);
    table.sparse->slots.span -= pool_.block_size();
    pool_.release(block);
  }
}

SlotTotals BlockTables::slot_totals() const {
  const std::uint32_t block_size = pool_.block_size();
  SlotTotals totals{.slots = std::uint64_t{pool_.held()} * block_size};
  std::vector<std::uint32_t> filled(pool_.total());  // by block, of exact tables: several may share one
  for (const auto& [lease, table] : tables_) {
    if (table.sparse) {
      totals.live += table.sparse->slots.live;
      totals.holes += table.sparse->slots.holes();
      continue;
    }
    const std::uint32_t tokens = std::max(table.computed, table.written);
    for (std::uint32_t i = 0; i < table.blocks.size() && i * block_size < tokens; ++i) {
      std::uint32_t& most = filled[static_cast<std::uint32_t>(table.blocks[i])];
      most = std::max(most, std::min(block_size, tokens - i * block_size));
    }
  }
  totals.live += std::accumulate(filled.begin(), filled.end(), std::uint64_t{0});
  return totals;
}

std::vector<BlockState> BlockTables::states() const {
  std::vector<BlockState> states = pool_.states();
  for (const auto& [lease, table] : tables_) {
    if (!table.sparse || table.sparse->slots.live == table.computed) continue;
    for (const gpu::BlockId block : table.blocks)
      states[static_cast<std::uint32_t>(block)] = BlockState::kSparse;
  }
  return states;
}

void BlockTables::commit(LeaseId lease, std::uint32_t computed, std::span<const model::TokenId> appended) {
  const auto found = tables_.find(lease);
  if (found == tables_.end()) return;
  Table& table = found->second;
  if (table.sparse) return;  // never shared, so never named
  table.tokens.insert(table.tokens.end(), appended.begin(), appended.end());
  table.computed = std::max(table.computed, computed);
  const std::uint32_t block_size = pool_.block_size();
  const auto valid = std::min<std::size_t>(table.computed, table.tokens.size());
  while (std::size_t{table.named_blocks + 1} * block_size <= valid) {
    const auto content = std::span<const model::TokenId>(table.tokens)
                             .subspan(std::size_t{table.named_blocks} * block_size, block_size);
    table.name = extend(table.name, content);
    pool_.publish(table.blocks[table.named_blocks], table.name, content);
    ++table.named_blocks;
  }
}

bool BlockTables::release(LeaseId lease) {
  const auto found = tables_.find(lease);
  if (found == tables_.end()) return false;
  // Last block first, so that the beginning of a prefix outlives its end in the cache.
  for (auto block = found->second.blocks.rbegin(); block != found->second.blocks.rend(); ++block) {
    pool_.release(*block);
  }
  tables_.erase(found);
  return true;
}

void BlockTables::pin(gpu::BlockId block) {
  pool_.retain(block);
  pins_.push_back(block);
}

void BlockTables::unpin(gpu::BlockId block) {
  const auto found = std::ranges::find(pins_, block);
  SPW_CHECK(found != pins_.end());
  pins_.erase(found);
  pool_.release(block);
}

std::uint32_t BlockTables::distrust_tail(LeaseId lease) {
  const auto found = tables_.find(lease);
  if (found == tables_.end()) return 0;
  found->second.computed = found->second.named_blocks * pool_.block_size();
  return found->second.computed;
}

std::optional<std::span<const gpu::BlockId>> BlockTables::blocks(LeaseId lease) const {
  const auto found = tables_.find(lease);
  if (found == tables_.end()) return std::nullopt;
  return std::span<const gpu::BlockId>(found->second.blocks);
}

std::string BlockTables::check() const {
  if (std::string broken = pool_.check(); !broken.empty()) return broken;
  std::vector<std::uint32_t> references(pool_.total());
  for (const auto& [lease, table] : tables_) {
    for (const gpu::BlockId block : table.blocks) ++references[static_cast<std::uint32_t>(block)];
  }
  for (const gpu::BlockId block : pins_) ++references[static_cast<std::uint32_t>(block)];
  for (const gpu::BlockId block : deferred_) ++references[static_cast<std::uint32_t>(block)];
  for (const auto& [lease, table] : tables_) {
    if (!table.sparse) continue;
    const std::uint64_t slots = std::uint64_t{table.blocks.size()} * pool_.block_size();
    const SlotCount& count = table.sparse->slots;
    if (count.live > count.span || count.span > slots || slots >= count.span + pool_.block_size()) {
      return "a sparsified table of " + std::to_string(slots) + " slots has a span of " +
             std::to_string(count.span) + " and " + std::to_string(count.live) + " live tokens";
    }
  }
  for (std::uint32_t i = 0; i < references.size(); ++i) {
    if (references[i] != pool_.references(gpu::BlockId{i})) {
      return "block " + std::to_string(i) + " has " + std::to_string(pool_.references(gpu::BlockId{i})) +
             " references, the tables hold " + std::to_string(references[i]);
    }
  }
  return {};
}

}  // namespace spillway::actors
