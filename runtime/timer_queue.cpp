// SPDX-License-Identifier: Apache-2.0
#include <utility>

#include "runtime/actor_cell.hpp"

namespace spillway::runtime::detail {
namespace {

constexpr std::size_t kNodesPerSlab = 64;

}  // namespace

TimerQueue::~TimerQueue() {
  (void)clear();
  for (TimerNode* slab : slabs_) delete[] slab;
}

TimerNode* TimerQueue::add(TimePoint when, ActorCell* owner, Envelope* envelope, std::uint64_t wait_number) {
  if (free_ == nullptr) {
    auto* slab = new TimerNode[kNodesPerSlab];
    slabs_.push_back(slab);
    for (std::size_t i = kNodesPerSlab; i-- > 0;) {
      slab[i].next = free_;
      free_ = &slab[i];
    }
  }
  TimerNode* node = free_;
  free_ = node->next;
  node->when = when;
  node->number = next_number_++;
  node->owner = owner;
  node->envelope = envelope;
  node->wait_number = wait_number;
  node->previous = nullptr;
  node->next = nullptr;
  if (owner != nullptr) {
    node->next = owner->timers;
    if (node->next != nullptr) node->next->previous = node;
    owner->timers = node;
  }
  node->heap_index = heap_.size();
  heap_.push_back(node);
  sift_up(node->heap_index);
  return node;
}

void TimerQueue::cancel(TimerNode* node) noexcept {
  remove_at(node->heap_index);
  Envelope* envelope = std::exchange(node->envelope, nullptr);
  recycle(node);
  if (envelope != nullptr) envelope->ops->destroy(envelope);
}

TimerNode* TimerQueue::find(TimerNode* node, std::uint64_t number) const noexcept {
  return node != nullptr && node->number == number ? node : nullptr;
}

TimePoint TimerQueue::next() const noexcept { return heap_.empty() ? kNoDeadline : heap_.front()->when; }

TimerNode* TimerQueue::pop() noexcept {
  TimerNode* node = heap_.front();
  remove_at(0);
  return node;
}

void TimerQueue::recycle(TimerNode* node) noexcept {
  if (node->owner != nullptr) {
    if (node->previous != nullptr) {
      node->previous->next = node->next;
    } else {
      node->owner->timers = node->next;
    }
    if (node->next != nullptr) node->next->previous = node->previous;
  }
  node->number = 0;
  node->owner = nullptr;
  node->envelope = nullptr;
  node->next = free_;
  free_ = node;
}

void TimerQueue::cancel_all(ActorCell* owner) noexcept {
  while (owner->timers != nullptr) cancel(owner->timers);
}

bool TimerQueue::clear() noexcept {
  if (heap_.empty()) return false;
  while (!heap_.empty()) cancel(heap_.back());
  return true;
}

bool TimerQueue::earlier(const TimerNode* a, const TimerNode* b) const noexcept {
  return a->when != b->when ? a->when < b->when : a->number < b->number;
}

void TimerQueue::remove_at(std::size_t index) noexcept {
  TimerNode* last = heap_.back();
  heap_.pop_back();
  if (index == heap_.size()) return;
  heap_[index] = last;
  last->heap_index = index;
  sift_up(index);
  sift_down(last->heap_index);
}

void TimerQueue::sift_up(std::size_t index) noexcept {
  TimerNode* node = heap_[index];
  while (index > 0) {
    const std::size_t parent = (index - 1) / 2;
    if (!earlier(node, heap_[parent])) break;
    heap_[index] = heap_[parent];
    heap_[index]->heap_index = index;
    index = parent;
  }
  heap_[index] = node;
  node->heap_index = index;
}

void TimerQueue::sift_down(std::size_t index) noexcept {
  TimerNode* node = heap_[index];
  for (;;) {
    std::size_t child = 2 * index + 1;
    if (child >= heap_.size()) break;
    if (child + 1 < heap_.size() && earlier(heap_[child + 1], heap_[child])) ++child;
    if (!earlier(heap_[child], node)) break;
    heap_[index] = heap_[child];
    heap_[index]->heap_index = index;
    index = child;
  }
  heap_[index] = node;
  node->heap_index = index;
}

}  // namespace spillway::runtime::detail
