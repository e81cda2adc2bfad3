// SPDX-License-Identifier: Apache-2.0
#include "net/load/trace.hpp"

#include <algorithm>
#include <array>
#include <boost/json.hpp>
#include <charconv>
#include <chrono>
#include <limits>
#include <string>

namespace spillway::net::load {
namespace {

namespace json = boost::json;

constexpr std::int64_t kTokensMax = 10'000'000;

Error bad(std::string_view name, std::size_t line, const std::string& what) {
  return {Errc::kBadFile, std::string(name) + ": line " + std::to_string(line) + ": " + what};
}

/// The next line without its end; false after the last.
bool next_line(std::string_view& text, std::string_view& line) {
  if (text.empty()) return false;
  const std::size_t end = std::min(text.find('\n'), text.size());
  line = text.substr(0, end);
  text.remove_prefix(std::min(end + 1, text.size()));
  if (line.ends_with('\r')) line.remove_suffix(1);
  return true;
}

bool is_blank(std::string_view line) { return line.find_first_not_of(" \t") == std::string_view::npos; }

/// Takes `digits` digits off the front.
bool take_number(std::string_view& text, std::size_t digits, int& value) {
  if (text.size() < digits) return false;
  const char* end = text.data() + digits;
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end || text.front() == '-') return false;
  text.remove_prefix(digits);
  return true;
}

bool take_one_of(std::string_view& text, std::string_view set) {
  if (text.empty() || set.find(text.front()) == std::string_view::npos) return false;
  text.remove_prefix(1);
  return true;
}

Result<Lengths> lengths_of(std::int64_t input, std::int64_t output) {
  if (input < 0 || input > kTokensMax || output < 0 || output > kTokensMax)
    return Error{Errc::kInvalidArgument, "a length is not from 0 to " + std::to_string(kTokensMax)};
  // An empty prompt or answer cannot be asked for; traces hold a few.
  return Lengths{static_cast<std::uint32_t>(std::max<std::int64_t>(input, 1)),
                 static_cast<std::uint32_t>(std::max<std::int64_t>(output, 1))};
}

Result<TraceEntry> mooncake_entry(std::string_view line) {
  const auto wrong = [](std::string what) { return Error{Errc::kInvalidArgument, std::move(what)}; };
  boost::system::error_code failure;
  const json::value value = json::parse(line, failure);
  if (failure || !value.is_object()) return wrong("not a JSON object");
  const json::object& object = value.get_object();
  const auto number = [&](const char* name, double& target) {
    const json::value* member = object.if_contains(name);
    if (member == nullptr || !member->is_number()) return false;
    target = member->to_number<double>();
    return true;
  };
  double at_ms = 0, input = 0, output = 0;
  if (!number("timestamp", at_ms) || at_ms < 0 || at_ms > 9e12)
    return wrong("field 'timestamp' is no time in ms");
  if (!number("input_length", input) || !(input >= 0 && input <= kTokensMax))
    return wrong("field 'input_length' is no number of tokens");
  if (!number("output_length", output) || !(output >= 0 && output <= kTokensMax))
    return wrong("field 'output_length' is no number of tokens");
  TraceEntry entry;
  entry.at_ns = static_cast<std::int64_t>(at_ms * 1e6);
  entry.lengths = lengths_of(static_cast<std::int64_t>(input), static_cast<std::int64_t>(output)).value();
  if (const json::value* ids = object.if_contains("hash_ids"); ids != nullptr && !ids->is_null()) {
    if (!ids->is_array()) return wrong("field 'hash_ids' is no list");
    for (const json::value& id : ids->get_array()) {
      if (!id.is_int64()) return wrong("field 'hash_ids' holds something other than whole numbers");
      entry.hash_ids.push_back(id.get_int64());
    }
  }
  return entry;
}

Result<TraceEntry> azure_entry(std::string_view line) {
  const auto wrong = [](std::string what) { return Error{Errc::kInvalidArgument, std::move(what)}; };
  std::array<std::string_view, 3> fields;
  for (std::size_t i = 0; i < fields.size(); ++i) {
    const std::size_t end = std::min(line.find(','), line.size());
    if (i + 1 < fields.size() && end == line.size()) return wrong("fewer than three fields");
    fields[i] = line.substr(0, end);
    line.remove_prefix(std::min(end + 1, line.size()));
  }
  TraceEntry entry;
  const Result<std::int64_t> at_ns = parse_timestamp(fields[0]);
  if (!at_ns) return at_ns.error();
  entry.at_ns = *at_ns;
  std::array<std::int64_t, 2> counts{};
  for (std::size_t i = 0; i < counts.size(); ++i) {
    const std::string_view field = fields[i + 1];
    const auto [stop, error] = std::from_chars(field.data(), field.data() + field.size(), counts[i]);
    if (error != std::errc() || stop != field.data() + field.size())
      return wrong("'" + std::string(field) + "' is no number of tokens");
  }
  const Result<Lengths> lengths = lengths_of(counts[0], counts[1]);
  if (!lengths) return lengths.error();
  entry.lengths = *lengths;
  return entry;
}

}  // namespace

Result<std::int64_t> parse_timestamp(std::string_view text) {
  const Error wrong{Errc::kInvalidArgument,
                    "'" + std::string(text) + "' is no time such as 2023-11-16 18:15:46.6805900"};
  int year = 0, month = 0, day = 0, hour = 0, minute = 0, second = 0;
  const bool parsed = take_number(text, 4, year) && take_one_of(text, "-") && take_number(text, 2, month) &&
                      take_one_of(text, "-") && take_number(text, 2, day) && take_one_of(text, " T") &&
                      take_number(text, 2, hour) && take_one_of(text, ":") && take_number(text, 2, minute) &&
                      take_one_of(text, ":") && take_number(text, 2, second);
  const std::chrono::year_month_day date{std::chrono::year(year),
                                         std::chrono::month(static_cast<unsigned>(month)),
                                         std::chrono::day(static_cast<unsigned>(day))};
  if (!parsed || !date.ok() || hour > 23 || minute > 59 || second > 60) return wrong;
  std::int64_t fraction_ns = 0;
  if (take_one_of(text, ".")) {
    std::int64_t unit_ns = 100'000'000;
    while (!text.empty() && text.front() >= '0' && text.front() <= '9') {
      fraction_ns += (text.front() - '0') * unit_ns;
      unit_ns /= 10;
      text.remove_prefix(1);
    }
  }
  int zone_minutes = 0;
  if (!text.empty() && text != "Z") {
    const bool is_west = text.front() == '-';
    int zone_hour = 0, zone_minute = 0;
    if (!take_one_of(text, "+-") || !take_number(text, 2, zone_hour) || !take_one_of(text, ":") ||
        !take_number(text, 2, zone_minute) || !text.empty())
      return wrong;
    zone_minutes = (zone_hour * 60 + zone_minute) * (is_west ? -1 : 1);
  }
  const std::int64_t days = std::chrono::sys_days(date).time_since_epoch().count();
  const std::int64_t seconds = ((days * 24 + hour) * 60 + minute - zone_minutes) * 60 + second;
  return seconds * 1'000'000'000 + fraction_ns;
}

Result<std::vector<TraceEntry>> parse_trace(std::string_view text, std::string_view name) {
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);  // a byte order mark
  std::vector<TraceEntry> trace;
  std::string_view line;
  std::size_t number = 0;
  bool is_csv = false;
  while (next_line(text, line)) {
    ++number;
    if (is_blank(line)) continue;
    if (number == 1 && line.starts_with("TIMESTAMP")) {
      if (line != "TIMESTAMP,ContextTokens,GeneratedTokens")
        return bad(name, number, "the header is not TIMESTAMP,ContextTokens,GeneratedTokens");
      is_csv = true;
      continue;
    }
    Result<TraceEntry> entry = is_csv ? azure_entry(line) : mooncake_entry(line);
    if (!entry) return bad(name, number, entry.error().message);
    trace.push_back(std::move(*entry));
  }
  if (trace.empty()) return bad(name, number, "the trace holds no request");
  std::stable_sort(trace.begin(), trace.end(),
                   [](const TraceEntry& a, const TraceEntry& b) { return a.at_ns < b.at_ns; });
  const std::int64_t first_ns = trace.front().at_ns;
  for (TraceEntry& entry : trace) entry.at_ns -= first_ns;
  return trace;
}

std::vector<LoadRequest> trace_requests(const std::vector<TraceEntry>& trace, double speed,
                                        std::uint32_t block_tokens, std::uint64_t seed,
                                        const PromptSource& source) {
  std::vector<LoadRequest> requests;
  requests.reserve(trace.size());
  runtime::Random rest(seed);
  for (const TraceEntry& entry : trace) {
    LoadRequest request;
    request.at_ns = static_cast<std::int64_t>(static_cast<double>(entry.at_ns) / speed);
    request.prompt = source.empty();
    std::uint32_t left = entry.lengths.input;
    for (const std::int64_t id : entry.hash_ids) {
      const std::uint32_t tokens = std::min(left, block_tokens);
      // A block's content follows from its id alone, wherever it appears.
      runtime::Random block(static_cast<std::uint64_t>(id) * 0x9e3779b97f4a7c15ULL ^ seed);
      source.append(request.prompt, tokens, block);
      left -= tokens;
    }
    source.append(request.prompt, left, rest);
    request.prompt_tokens = entry.lengths.input;
    request.output_tokens = entry.lengths.output;
    requests.push_back(std::move(request));
  }
  return requests;
}

}  // namespace spillway::net::load
