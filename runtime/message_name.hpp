// SPDX-License-Identifier: Apache-2.0
#pragma once

// Readable names of messages in traces and reports. A type may say its own name by an overload found by ADL,
//   std::string_view message_name(const MyMessage&);
// which must return storage that lives as long as the program. Otherwise a variant names the alternative it holds,
// and any other type its own name without namespaces.

#include <array>
#include <concepts>
#include <cstddef>
#include <string_view>
#include <utility>
#include <variant>

namespace spillway::runtime {

template <class T>
[[nodiscard]] constexpr std::string_view type_name() noexcept {
  std::string_view text = __PRETTY_FUNCTION__;
  // gcc: "... [with T = ns::Name; ...]", clang: "... [T = ns::Name]"
  const std::size_t start = text.find("T = ") + 4;
  text = text.substr(start, text.find_first_of(";]", start) - start);
  std::size_t cut = 0;
  int depth = 0;
  for (std::size_t i = 0; i + 1 < text.size(); ++i) {
    if (text[i] == '<') ++depth;
    if (text[i] == '>') --depth;
    if (depth == 0 && text[i] == ':' && text[i + 1] == ':') cut = i + 2;
  }
  return text.substr(cut);
}

namespace detail {

template <class T>
concept NamesItself = requires(const T& value) {
  { message_name(value) } -> std::convertible_to<std::string_view>;
};

template <class M>
struct MessageName {
  static std::string_view of(const M& value) {
    if constexpr (NamesItself<M>) {
      return message_name(value);
    } else {
      return type_name<M>();
    }
  }
};

template <class... Ts>
struct MessageName<std::variant<Ts...>> {
  static std::string_view of(const std::variant<Ts...>& value) {
    if (value.valueless_by_exception()) return "valueless";
    static constexpr std::array<std::string_view (*)(const std::variant<Ts...>&), sizeof...(Ts)> kNames{
        [](const std::variant<Ts...>& v) { return MessageName<Ts>::of(*std::get_if<Ts>(&v)); }...};
    return kNames[value.index()](value);
  }
};

}  // namespace detail

template <class M>
[[nodiscard]] std::string_view name_of(const M& message) {
  return detail::MessageName<M>::of(message);
}

}  // namespace spillway::runtime
