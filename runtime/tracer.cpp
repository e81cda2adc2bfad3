// SPDX-License-Identifier: Apache-2.0
#include "runtime/tracer.hpp"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <thread>

namespace spillway::runtime {

struct Tracer::Span {
  TimePoint start;
  TimePoint end;
  TrackId track;
  std::uint8_t name_bytes;
  std::uint8_t arg_count;
  char name[kNameMax + 1];
  TraceArg args[kArgsMax];
};

struct Tracer::Buffer {
  explicit Buffer(std::size_t capacity_in)
      : spans(new Span[capacity_in]), capacity(capacity_in), owner(std::this_thread::get_id()) {}

  std::unique_ptr<Span[]> spans;
  const std::size_t capacity;
  const std::thread::id owner;
  std::atomic<std::size_t> count{0};  // written by the owning thread only
  std::atomic<std::uint64_t> dropped{0};
};

namespace {

std::atomic<std::uint64_t> next_tracer_id{1};

/// The buffer this thread used last.
struct LastBuffer {
  std::uint64_t tracer_id = 0;
  void* buffer = nullptr;
};
constinit thread_local LastBuffer tls_last{};

/// At most `limit` bytes, never half a UTF-8 character.
std::size_t whole_characters(std::string_view text, std::size_t limit) noexcept {
  if (text.size() <= limit) return text.size();
  while (limit > 0 && (static_cast<unsigned char>(text[limit]) & 0xC0) == 0x80) --limit;
  return limit;
}

void write_string(std::ostream& out, std::string_view text) {
  out << '"';
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out << '\\' << c;
    } else if (byte < 0x20 || byte == 0x7F) {
      char escaped[8];
      std::snprintf(escaped, sizeof(escaped), "\\u%04x", byte);
      out << escaped;
    } else {
      out << c;
    }
  }
  out << '"';
}

/// Nanoseconds as the format's microseconds, exactly.
void write_us(std::ostream& out, std::int64_t ns) {
  char text[40];
  const char* sign = ns < 0 ? "-" : "";
  const std::uint64_t magnitude = ns < 0 ? 0 - static_cast<std::uint64_t>(ns) : static_cast<std::uint64_t>(ns);
  std::snprintf(text, sizeof(text), "%s%llu.%03llu", sign, static_cast<unsigned long long>(magnitude / 1000),
                static_cast<unsigned long long>(magnitude % 1000));
  out << text;
}

void write_metadata(std::ostream& out, const char* kind, std::size_t pid, std::size_t tid, std::string_view name) {
  out << R"({"ph":"M","name":")" << kind << R"(","pid":)" << pid << R"(,"tid":)" << tid << R"(,"args":{"name":)";
  write_string(out, name);
  out << "}},\n";
}

}  // namespace

Tracer::Tracer(std::size_t spans_per_thread_max)
    : id_(next_tracer_id.fetch_add(1, std::memory_order_relaxed)),
      spans_per_thread_max_(std::max<std::size_t>(spans_per_thread_max, 1)) {
  tracks_.push_back(Track{0, ""});
}

Tracer::~Tracer() = default;

TrackId Tracer::add_track(std::string_view group, std::string_view name) {
  const std::lock_guard lock(mutex_);
  auto found = std::find(groups_.begin(), groups_.end(), group);
  if (found == groups_.end()) found = groups_.insert(groups_.end(), std::string(group));
  tracks_.push_back(Track{static_cast<std::uint32_t>(found - groups_.begin()), std::string(name)});
  return static_cast<TrackId>(tracks_.size() - 1);
}

Tracer::Buffer* Tracer::buffer_of_this_thread() noexcept {
  if (tls_last.tracer_id == id_) return static_cast<Buffer*>(tls_last.buffer);
  try {
    const std::lock_guard lock(mutex_);
    Buffer* mine = nullptr;
    for (auto& buffer : buffers_) {
      if (buffer->owner == std::this_thread::get_id()) mine = buffer.get();
    }
    if (mine == nullptr) mine = buffers_.emplace_back(std::make_unique<Buffer>(spans_per_thread_max_)).get();
    tls_last = LastBuffer{id_, mine};
    return mine;
  } catch (...) {
    return nullptr;
  }
}

void Tracer::trace_span(TrackId track, std::string_view name, TimePoint start, TimePoint end,
                        std::initializer_list<TraceArg> args) noexcept {
  if (track == TrackId{}) return;
  Buffer* buffer = buffer_of_this_thread();
  if (buffer == nullptr) {
    dropped_without_buffer_.fetch_add(1, std::memory_order_relaxed);
    return;
  }
  const std::size_t index = buffer->count.load(std::memory_order_relaxed);
  if (index == buffer->capacity) {
    buffer->dropped.fetch_add(1, std::memory_order_relaxed);
    return;
  }
  Span& span = buffer->spans[index];
  span.start = start;
  span.end = std::max(start, end);
  span.track = track;
  span.name_bytes = static_cast<std::uint8_t>(whole_characters(name, kNameMax));
  std::memcpy(span.name, name.data(), span.name_bytes);
  span.arg_count = static_cast<std::uint8_t>(std::min(args.size(), kArgsMax));
  std::copy_n(args.begin(), span.arg_count, span.args);
  buffer->count.store(index + 1, std::memory_order_release);
}

std::uint64_t Tracer::dropped() const noexcept {
  const std::lock_guard lock(mutex_);
  std::uint64_t total = dropped_without_buffer_.load(std::memory_order_relaxed);
  for (const auto& buffer : buffers_) total += buffer->dropped.load(std::memory_order_relaxed);
  return total;
}

std::uint64_t Tracer::recorded() const noexcept {
  const std::lock_guard lock(mutex_);
  std::uint64_t total = 0;
  for (const auto& buffer : buffers_) total += buffer->count.load(std::memory_order_relaxed);
  return total;
}

void Tracer::write(std::ostream& out) const {
  const std::uint64_t dropped_spans = dropped();
  const std::lock_guard lock(mutex_);
  out << R"({"displayTimeUnit":"ns","otherData":{"dropped_spans":)" << dropped_spans << "},\n\"traceEvents\":[\n";
  for (std::size_t g = 0; g < groups_.size(); ++g) write_metadata(out, "process_name", g + 1, 0, groups_[g]);
  for (std::size_t t = 1; t < tracks_.size(); ++t) {
    write_metadata(out, "thread_name", tracks_[t].group + 1, t, tracks_[t].name);
  }
  for (const auto& buffer : buffers_) {
    const std::size_t count = buffer->count.load(std::memory_order_acquire);
    for (std::size_t i = 0; i < count; ++i) {
      const Span& span = buffer->spans[i];
      const auto track = static_cast<std::size_t>(span.track);
      if (track >= tracks_.size()) continue;
      out << R"({"ph":"X","pid":)" << tracks_[track].group + 1 << R"(,"tid":)" << track << R"(,"ts":)";
      write_us(out, to_ns(span.start));
      out << R"(,"dur":)";
      write_us(out, (span.end - span.start).count());
      out << R"(,"name":)";
      write_string(out, std::string_view(span.name, span.name_bytes));
      if (span.arg_count > 0) {
        out << R"(,"args":{)";
        for (std::size_t a = 0; a < span.arg_count; ++a) {
          if (a > 0) out << ',';
          write_string(out, span.args[a].key);
          out << ':' << span.args[a].value;
        }
        out << '}';
      }
      out << "},\n";
    }
  }
  // Ends the list without a comma, and shows in the viewer itself what is missing.
  out << R"({"ph":"M","name":"dropped_spans","pid":0,"tid":0,"args":{"count":)" << dropped_spans << "}}\n]}\n";
}

Result<void> Tracer::write_file(const std::string& path) const {
  const std::string temporary = path + ".partial";
  {
    std::ofstream out(temporary, std::ios::binary | std::ios::trunc);
    if (out) write(out);
    out.flush();
    if (!out) {
      std::remove(temporary.c_str());
      return Error{Errc::kIo, "trace file " + path + ": cannot be written; give a path in a writable directory"};
    }
  }
  if (std::rename(temporary.c_str(), path.c_str()) != 0) {
    std::remove(temporary.c_str());
    return Error{Errc::kIo, "trace file " + path + ": cannot be renamed from " + temporary};
  }
  return {};
}

}  // namespace spillway::runtime
