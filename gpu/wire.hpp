// SPDX-License-Identifier: Apache-2.0
#pragma once

// Wire: plain structs as bytes and back: little-endian, packed, lists and texts with a 32-bit count before
// them. A struct is known by one function for both directions that binds all of its members, so that a member
// added later does not compile until it travels too:
//
//   template <class Io, Is<CopyPlan::Pair> S> void fields(Io& io, S& s) { auto& [from, to] = s; io(from, to);
//   }
//
// What is read is distrusted: it takes no more memory than a small multiple of the bytes that came, and a
// bool, an enumerator or a count that cannot be marks the reader as failed.

#include <algorithm>
#include <array>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "runtime/result.hpp"

namespace spillway::gpu {

static_assert(std::endian::native == std::endian::little);

template <class S, class T>
concept Is = std::same_as<std::remove_const_t<S>, T>;

/// The last enumerator of a closed enum; kAny: every value is one (ids).
inline constexpr std::int64_t kAny = -1;
template <class E>
inline constexpr std::int64_t kLastOf = -2;

template <class T>
inline constexpr bool kClosedEnum = std::is_enum_v<T>&& kLastOf<T> >= 0;
/// As it lies in memory, whatever its value.
template <class T>
concept Plain = (std::is_arithmetic_v<T> && !std::same_as<T, bool>) ||
                (std::is_enum_v<T> && kLastOf<T> == kAny);

class WireWriter {
 public:
  template <class... T>
  void operator()(const T&... values) {
    (put(values), ...);
  }
  [[nodiscard]] std::span<const std::byte> bytes() const noexcept { return {buffer_.data(), at_}; }
  void clear() noexcept { at_ = 0; }  // keeps the memory

 private:
  template <Plain T>
  void put(const T& value) {
    append(&value, sizeof value);
  }
  void put(bool value) { put(static_cast<std::uint8_t>(value)); }
  template <class T>
  requires kClosedEnum<T>
  void put(const T& value) { put(static_cast<std::underlying_type_t<T>>(value)); }
  void put(const std::string& text) { put_list(text); }
  template <Plain T, std::size_t N>
  void put(const std::array<T, N>& values) {
    append(values.data(), N * sizeof(T));
  }
  template <class T>
  void put(const std::vector<T>& list) {
    put_list(list);
  }
  template <class T>
  void put(const std::optional<T>& value) {
    put(value.has_value());
    if (value) put(*value);
  }
  template <class T>
  requires std::is_class_v<T>
  void put(const T& value) { fields(*this, value); }
  template <class List>
  void put_list(const List& list) {
    put(static_cast<std::uint32_t>(list.size()));
    if constexpr (Plain<typename List::value_type>) {
      append(list.data(), list.size() * sizeof(typename List::value_type));
    } else {
      for (const auto& each : list) put(each);
    }
  }
  void append(const void* from, std::size_t bytes) {
    if (at_ + bytes > buffer_.size()) buffer_.resize(std::max(2 * buffer_.size(), at_ + bytes));
    if (bytes > 0) std::memcpy(buffer_.data() + at_, from, bytes);
    at_ += bytes;
  }

  std::vector<std::byte> buffer_;
  std::size_t at_ = 0;
};

class WireReader {
 public:
  explicit WireReader(std::span<const std::byte> bytes) : rest_(bytes) {}

  template <class... T>
  void operator()(T&... values) {
    (get(values), ...);
  }
  /// Everything was read and could be. Errors: kInvalidArgument, `what` and why.
  [[nodiscard]] Result<void> finish(const char* what) const {
    const char* wrong = wrong_ != nullptr ? wrong_ : rest_.empty() ? nullptr : "holds more than it should";
    if (wrong == nullptr) return {};
    return Error{Errc::kInvalidArgument, std::string(what) + " " + wrong};
  }

 private:
  template <Plain T>
  void get(T& value) {
    take(&value, sizeof value);
  }
  void get(bool& value) {
    std::uint8_t byte = 0;
    get(byte);
    if (byte > 1) fail("holds a bool that is neither");
    value = byte == 1;
  }
  template <class T>
  requires kClosedEnum<T>
  void get(T& value) {
    std::underlying_type_t<T> number = 0;
    get(number);
    if (static_cast<std::int64_t>(number) > kLastOf<T>)
      return fail("holds an enumerator that does not exist");
    value = static_cast<T>(number);
  }
  void get(std::string& text) { get_list(text); }
  template <Plain T, std::size_t N>
  void get(std::array<T, N>& values) {
    take(values.data(), N * sizeof(T));
  }
  template <class T>
  void get(std::vector<T>& list) {
    get_list(list);
  }
  template <class T>
  void get(std::optional<T>& value) {
    bool there = false;
    get(there);
    if (there && wrong_ == nullptr) get(value.emplace());
  }
  template <class T>
  requires std::is_class_v<T>
  void get(T& value) { fields(*this, value); }
  template <class List>
  void get_list(List& list) {
    using Each = typename List::value_type;
    std::uint32_t count = 0;
    get(count);
    // Whatever an element is, it takes a byte at least.
    if (count > rest_.size() / (Plain<Each> ? sizeof(Each) : 1)) return fail("ends early");
    if constexpr (Plain<Each>) {
      list.resize(count);
      take(list.data(), count * sizeof(Each));
    } else {
      list.clear();
      while (list.size() < count && wrong_ == nullptr) get(list.emplace_back());
    }
  }
  void take(void* to, std::size_t bytes) {
    if (bytes > rest_.size()) return fail("ends early");
    if (bytes > 0) std::memcpy(to, rest_.data(), bytes);
    rest_ = rest_.subspan(bytes);
  }
  void fail(const char* why) {
    if (wrong_ == nullptr) wrong_ = why;
    rest_ = {};
  }

  std::span<const std::byte> rest_;
  const char* wrong_ = nullptr;
};

}  // namespace spillway::gpu
