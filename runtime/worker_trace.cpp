// SPDX-License-Identifier: Apache-2.0
// Spans of actors: one for each message handled (from the receive that yields it to the next one), and inside or
// between them one for each wait. Called only when the executor has a tracer.
#include <string>

#include "runtime/actor_cell.hpp"
#include "runtime/actor_extras.hpp"
#include "runtime/executor.hpp"
#include "runtime/tracer.hpp"

namespace spillway::runtime::detail {
namespace {

std::string_view span_name(Wait wait) noexcept {
  switch (wait) {
    case Wait::kMail: return "wait: mail";
    case Wait::kReply: return "wait: reply";
    case Wait::kRoom: return "wait: room";
    case Wait::kSleep: return "wait: sleep";
    case Wait::kNothing:
    case Wait::kStart: break;
  }
  return "wait";
}

TrackId track_of(ActorCell* cell, Tracer& tracer) {
  if (cell->trace_track == 0) {
    const std::string name = cell->extras != nullptr && !cell->extras->name.empty() ? cell->extras->name : "actor";
    cell->trace_track =
        static_cast<std::uint32_t>(tracer.add_track("actors", name + " #" + std::to_string(cell->spawn_order)));
  }
  return static_cast<TrackId>(cell->trace_track);
}

}  // namespace

void WorkerCore::trace_wait_begin(ActorCell* cell) noexcept {
  cell->trace_wait = cell->wait;
  cell->trace_wait_start = executor->now();
}

void WorkerCore::trace_wait_end(ActorCell* cell) noexcept {
  const Wait wait = std::exchange(cell->trace_wait, Wait::kNothing);
  if (wait == Wait::kNothing) return;
  tracer->trace_span(track_of(cell, *tracer), span_name(wait), cell->trace_wait_start, executor->now());
}

void WorkerCore::trace_message_begin(ActorCell* cell, std::string_view name) noexcept {
  cell->trace_name = name;
  cell->trace_message_start = executor->now();
}

void WorkerCore::trace_message_end(ActorCell* cell) noexcept {
  if (cell->trace_name.empty()) return;
  tracer->trace_span(track_of(cell, *tracer), cell->trace_name, cell->trace_message_start, executor->now());
  cell->trace_name = {};
}

}  // namespace spillway::runtime::detail
