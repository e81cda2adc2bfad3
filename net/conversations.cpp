// SPDX-License-Identifier: Apache-2.0
#include "net/conversations.hpp"

namespace spillway::net {

void Conversations::put(std::string id, std::uint32_t owner, std::uint64_t connection,
                        std::vector<model::Message> messages) {
  constexpr std::size_t kEntryBytes = 512;  // what the containers take, roughly
  std::size_t bytes = kEntryBytes + id.size();
  for (const model::Message& message : messages) bytes += 64 + message.role.size() + message.content.size();
  if (bytes > bytes_max_) return;
  if (const auto old = index_.find(id); old != index_.end()) erase(old->second);
  while (!entries_.empty() && (entries_.size() >= entries_max_ || bytes_ + bytes > bytes_max_))
    erase(std::prev(entries_.end()));
  if (connection != 0) of_connection_[connection].push_back(id);
  entries_.push_front({std::move(id), owner, connection, bytes, std::move(messages)});
  index_.emplace(entries_.front().id, entries_.begin());
  bytes_ += bytes;
}

const std::vector<model::Message>* Conversations::find(std::string_view id, std::uint32_t owner,
                                                       std::uint64_t connection) {
  const auto found = index_.find(id);
  if (found == index_.end()) return nullptr;
  const Place place = found->second;
  if (place->owner != owner || (place->connection != 0 && place->connection != connection)) return nullptr;
  entries_.splice(entries_.begin(), entries_, place);
  return &place->messages;
}

void Conversations::forget_connection(std::uint64_t connection) {
  const auto ids = of_connection_.extract(connection);
  if (ids.empty()) return;
  for (const std::string& id : ids.mapped()) {
    if (const auto found = index_.find(id); found != index_.end()) erase(found->second);
  }
}

void Conversations::erase(Place place) {
  bytes_ -= place->bytes;
  index_.erase(place->id);
  entries_.erase(place);
}

}  // namespace spillway::net
