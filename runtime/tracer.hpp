// SPDX-License-Identifier: Apache-2.0
#pragma once

// Tracer: collects spans from all threads and writes them as Chrome trace JSON, which ui.perfetto.dev opens. Who has
// no tracer pays one branch. Each thread fills a bounded buffer of its own without locks; when it is full, further
// spans are dropped and counted, and the file says so.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <ostream>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/result.hpp"
#include "runtime/time.hpp"

namespace spillway::runtime {

/// One line in the viewer. 0 is no track; spans on it are ignored.
enum class TrackId : std::uint32_t {};

struct TraceArg {
  const char* key;  // a string literal
  std::int64_t value;
};

class Tracer {
 public:
  static constexpr std::size_t kNameMax = 47;  // bytes of a span's name that are kept
  static constexpr std::size_t kArgsMax = 3;   // further arguments are left out

  explicit Tracer(std::size_t spans_per_thread_max = 1 << 17);
  Tracer(const Tracer&) = delete;
  Tracer& operator=(const Tracer&) = delete;
  ~Tracer();

  /// A track called `name` under the heading `group` ("actors", "device 0"). Any thread; takes a lock.
  [[nodiscard]] TrackId add_track(std::string_view group, std::string_view name);

  /// One span. Any thread; a track may be fed by several, as long as its spans nest or follow each other.
  void trace_span(TrackId track, std::string_view name, TimePoint start, TimePoint end,
                  std::initializer_list<TraceArg> args = {}) noexcept;

  [[nodiscard]] std::uint64_t dropped() const noexcept;
  [[nodiscard]] std::uint64_t recorded() const noexcept;

  /// Everything recorded so far. Threads may go on tracing meanwhile.
  void write(std::ostream& out) const;
  /// Writes to a temporary name beside `path`, then renames. Errors: kIo.
  [[nodiscard]] Result<void> write_file(const std::string& path) const;

 private:
  struct Span;
  struct Buffer;
  struct Track {
    std::uint32_t group;
    std::string name;
  };

  Buffer* buffer_of_this_thread() noexcept;

  const std::uint64_t id_;
  const std::size_t spans_per_thread_max_;
  mutable std::mutex mutex_;  // guards what follows
  std::vector<std::string> groups_;
  std::vector<Track> tracks_;
  std::vector<std::unique_ptr<Buffer>> buffers_;
  std::atomic<std::uint64_t> dropped_without_buffer_{0};
};

}  // namespace spillway::runtime
