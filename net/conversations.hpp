// SPDX-License-Identifier: Apache-2.0
#pragma once

// Conversations: what previous_response_id may name. Bounded in number and bytes: the one unused longest goes first.
// Holds text only; whether its KV is still there is the block manager's business, and a request's usage tells.
// Pure; owned by the I/O thread.

#include <cstdint>
#include <list>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "model/chat_template.hpp"

namespace spillway::net {

class Conversations {
 public:
  Conversations(std::size_t entries_max, std::size_t bytes_max) : entries_max_(entries_max), bytes_max_(bytes_max) {}

  /// `owner`: the API key's number; no other finds it. `connection`: 0, or where alone it may be found.
  void put(std::string id, std::uint32_t owner, std::uint64_t connection, std::vector<model::Message> messages);
  /// Null when it is not there, or not this owner's, or another connection's.
  [[nodiscard]] const std::vector<model::Message>* find(std::string_view id, std::uint32_t owner,
                                                        std::uint64_t connection);
  void forget_connection(std::uint64_t connection);

  [[nodiscard]] std::size_t size() const noexcept { return entries_.size(); }
  [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }

 private:
  struct Entry {
    std::string id;
    std::uint32_t owner = 0;
    std::uint64_t connection = 0;
    std::size_t bytes = 0;
    std::vector<model::Message> messages;
  };
  using Place = std::list<Entry>::iterator;
  void erase(Place place);

  std::size_t entries_max_, bytes_max_, bytes_ = 0;
  std::list<Entry> entries_;  // used last comes first
  std::unordered_map<std::string_view, Place> index_;  // by Entry::id
  std::unordered_map<std::uint64_t, std::vector<std::string>> of_connection_;
};

}  // namespace spillway::net
