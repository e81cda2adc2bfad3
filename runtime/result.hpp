// SPDX-License-Identifier: Apache-2.0
#pragma once

// Result<T>: an expected failure as a value. The set of codes is closed; net/ maps each to one answer.

#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include "runtime/check.hpp"

namespace spillway {

enum class Errc {
  kInvalidArgument,   // the caller's input is wrong; the message says what would be right
  kNotFound,          // a file, model or id does not exist
  kBadFile,           // a file exists but its content is wrong: message names file, field, offset
  kUnsupported,       // understood, but this build or device cannot do it
  kOutOfMemory,       // a pool or the machine has no room for it
  kQueueFull,         // refused at the door; try again later
  kCancelled,         // the client went away or asked to stop
  kDeadlineExceeded,  // an ask or a drain ran out of time
  kDeviceFailed,      // a device step failed or the device is lost
  kClosed,            // the actor or stream on the other side has ended
  kIo,                // the operating system refused a read, write or map
  kInternal,          // an exception reached an actor's root
};

[[nodiscard]] constexpr std::string_view to_string(Errc code) noexcept {
  switch (code) {
    case Errc::kInvalidArgument: return "invalid_argument";
    case Errc::kNotFound: return "not_found";
    case Errc::kBadFile: return "bad_file";
    case Errc::kUnsupported: return "unsupported";
    case Errc::kOutOfMemory: return "out_of_memory";
    case Errc::kQueueFull: return "queue_full";
    case Errc::kCancelled: return "cancelled";
    case Errc::kDeadlineExceeded: return "deadline_exceeded";
    case Errc::kDeviceFailed: return "device_failed";
    case Errc::kClosed: return "closed";
    case Errc::kIo: return "io";
    case Errc::kInternal: return "internal";
  }
  return "unknown";
}

struct Error {
  Errc code = Errc::kInternal;
  std::string message;  // what was wrong, where, and what would be right

  friend bool operator==(const Error&, const Error&) = default;
};

/// Either a T or an Error. Reading the wrong one is a bug and aborts.
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}

  [[nodiscard]] bool ok() const noexcept { return state_.index() == 0; }
  explicit operator bool() const noexcept { return ok(); }

  [[nodiscard]] T& value() & { SPW_CHECK(ok()); return *std::get_if<0>(&state_); }
  [[nodiscard]] const T& value() const& { SPW_CHECK(ok()); return *std::get_if<0>(&state_); }
  [[nodiscard]] T&& value() && { SPW_CHECK(ok()); return std::move(*std::get_if<0>(&state_)); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

  [[nodiscard]] const Error& error() const& { SPW_CHECK(!ok()); return *std::get_if<1>(&state_); }
  [[nodiscard]] Error&& error() && { SPW_CHECK(!ok()); return std::move(*std::get_if<1>(&state_)); }

 private:
  std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : error_(std::move(error)), failed_(true) {}

  [[nodiscard]] bool ok() const noexcept { return !failed_; }
  explicit operator bool() const noexcept { return ok(); }
  [[nodiscard]] const Error& error() const& { SPW_CHECK(failed_); return error_; }
  [[nodiscard]] Error&& error() && { SPW_CHECK(failed_); return std::move(error_); }

 private:
  Error error_;
  bool failed_ = false;
};

}  // namespace spillway
