// SPDX-License-Identifier: Apache-2.0
#include "runtime/inbox.hpp"

#include <vector>

#include "runtime/sender.hpp"

namespace spillway::runtime::detail {

/// The tokens of one thread, or of one Sender. A token goes before its queue: the entry holds both.
struct ProducerRegistry {
  struct Entry {
    Entry(const std::shared_ptr<Inbox>& inbox_in) : inbox(inbox_in), token(inbox_in->queue_) {}
    std::shared_ptr<Inbox> inbox;
    moodycamel::ProducerToken token;
  };
  std::vector<std::unique_ptr<Entry>> entries;

  Entry& entry_for(const std::shared_ptr<Inbox>& inbox) {
    for (auto& entry : entries) {
      if (entry->inbox.get() == inbox.get()) return *entry;
    }
    std::erase_if(entries, [](const auto& entry) { return entry->inbox->closed(); });
    return *entries.emplace_back(std::make_unique<Entry>(inbox));
  }
};

void Inbox::push(const std::shared_ptr<Inbox>& self, Envelope* envelope) {
  static thread_local ProducerRegistry of_this_thread;
  ProducerRegistry& registry = tls_sender != nullptr ? *tls_sender : of_this_thread;
  self->queue_.enqueue(registry.entry_for(self).token, envelope);
}

}  // namespace spillway::runtime::detail

namespace spillway::runtime {

Sender::Sender() : tokens_(std::make_unique<detail::ProducerRegistry>()) {}
Sender::~Sender() = default;

}  // namespace spillway::runtime
