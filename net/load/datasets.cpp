// SPDX-License-Identifier: Apache-2.0
#include "net/load/datasets.hpp"

#include <algorithm>
#include <boost/json.hpp>
#include <limits>

#include "model/json.hpp"

namespace spillway::net::load {
namespace {

namespace json = boost::json;

constexpr std::size_t kShareGptTokensMin = 4, kShareGptInputMax = 1024, kShareGptTotalMax = 2048;
constexpr std::uint32_t kDefaultOutput = 256;

template <class T>
void shuffle(std::vector<T>& values, runtime::Random& random) {
  for (std::size_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[random.below(i)]);
}

Error bad(std::string_view name, const std::string& where, std::string_view what) {
  return {Errc::kBadFile, std::string(name) + ": " + where + ": " + std::string(what)};
}

/// Goes through the requests again until there are enough, or takes the first so many.
void repeat_to(std::vector<LoadRequest>& requests, std::size_t count) {
  const std::size_t had = requests.size();
  if (had >= count) {
    requests.resize(count);
    return;
  }
  requests.reserve(count);
  for (std::size_t i = had; i < count; ++i) requests.push_back(requests[i % had]);
}

/// Null: an entry that is no conversation of two texts, which real files hold.
const json::string* turn(const json::value& entry, std::size_t index) {
  const json::object* object = entry.if_object();
  const json::value* turns = object == nullptr ? nullptr : object->if_contains("conversations");
  if (turns == nullptr || !turns->is_array() || turns->get_array().size() < 2) return nullptr;
  const json::object* at = turns->get_array()[index].if_object();
  const json::value* value = at == nullptr ? nullptr : at->if_contains("value");
  return value == nullptr ? nullptr : value->if_string();
}

Result<LoadRequest> custom_request(std::string_view line, std::string_view name, const std::string& where,
                                   const FileOptions& options, const CountTokens& count) {
  boost::system::error_code failure;
  const json::value value = json::parse(line, failure);
  if (failure || !value.is_object()) return bad(name, where, "not a JSON object");
  const json::object& object = value.get_object();
  LoadRequest request;
  const json::value* prompt = object.if_contains("prompt");
  if (prompt != nullptr && prompt->is_string()) {
    const std::string_view text = prompt->get_string();
    if (count) {
      const Result<std::size_t> tokens = count(text);
      if (!tokens) return tokens.error();
      request.prompt_tokens = static_cast<std::uint32_t>(*tokens);
    }
    request.prompt = std::string(text);
  } else if (prompt != nullptr && prompt->is_array()) {
    std::vector<model::TokenId> ids;
    for (const json::value& id : prompt->get_array()) {
      if (!id.is_int64() || id.get_int64() < 0 || id.get_int64() > std::numeric_limits<model::TokenId>::max())
        return bad(name, where, "field 'prompt' holds something other than token ids");
      ids.push_back(static_cast<model::TokenId>(id.get_int64()));
    }
    request.prompt_tokens = static_cast<std::uint32_t>(ids.size());
    request.prompt = std::move(ids);
  } else {
    return bad(name, where, "field 'prompt' is neither a text nor a list of token ids");
  }
  request.output_tokens = options.output_tokens.value_or(kDefaultOutput);
  const json::value* output = object.if_contains("output_tokens");
  if (!options.output_tokens && output != nullptr && !output->is_null()) {
    if (!output->is_int64() || output->get_int64() < 1 || output->get_int64() > 1'000'000)
      return bad(name, where, "field 'output_tokens' is no number from 1 to 1000000");
    request.output_tokens = static_cast<std::uint32_t>(output->get_int64());
  }
  return request;
}

}  // namespace

std::vector<LoadRequest> synthetic_requests(const std::vector<Lengths>& lengths, std::uint32_t shared_prefix,
                                            const PromptSource& source, runtime::Random& random) {
  const Prompt prefix = source.draw(shared_prefix, random);
  std::vector<LoadRequest> requests(lengths.size());
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    requests[i].prompt = prefix;
    source.append(requests[i].prompt, lengths[i].input, random);
    requests[i].prompt_tokens = shared_prefix + lengths[i].input;
    requests[i].output_tokens = lengths[i].output;
  }
  return requests;
}

Result<std::vector<LoadRequest>> sharegpt_requests(std::string_view text, std::string_view name,
                                                   const FileOptions& options, const CountTokens& count,
                                                   runtime::Random& random) {
  Result<json::value> document = model::parse_json(text, name);
  if (!document) return document.error();
  if (!document->is_array()) return bad(name, "the document", "not a list of conversations");
  std::vector<const json::value*> entries;
  for (const json::value& entry : document->get_array()) entries.push_back(&entry);
  if (options.shuffle) shuffle(entries, random);

  std::vector<LoadRequest> requests;
  for (const json::value* entry : entries) {
    if (requests.size() == options.num_prompts) break;
    const json::string *prompt = turn(*entry, 0), *answer = turn(*entry, 1);
    if (prompt == nullptr || answer == nullptr) continue;
    const Result<std::size_t> input = count(*prompt);
    if (!input) return input.error();
    std::size_t output = options.output_tokens.value_or(0);
    if (!options.output_tokens) {
      const Result<std::size_t> counted = count(*answer);
      if (!counted) return counted.error();
      output = *counted;
      if (output < kShareGptTokensMin) continue;
    }
    if (*input < kShareGptTokensMin || *input > kShareGptInputMax || *input + output > kShareGptTotalMax)
      continue;
    requests.push_back(
        {0, std::string(*prompt), static_cast<std::uint32_t>(*input), static_cast<std::uint32_t>(output)});
  }
  if (requests.empty()) return bad(name, "the document", "no conversation of a usable length");
  repeat_to(requests, options.num_prompts);
  return requests;
}

Result<std::vector<LoadRequest>> custom_requests(std::string_view text, std::string_view name,
                                                 const FileOptions& options, const CountTokens& count,
                                                 runtime::Random& random) {
  std::vector<LoadRequest> requests;
  for (std::size_t number = 1; !text.empty(); ++number) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    Result<LoadRequest> request =
        custom_request(line, name, "line " + std::to_string(number), options, count);
    if (!request) return request.error();
    requests.push_back(std::move(*request));
  }
  if (requests.empty()) return bad(name, "the file", "it holds no request");
  if (options.shuffle) shuffle(requests, random);
  repeat_to(requests, options.num_prompts);
  return requests;
}

}  // namespace spillway::net::load
