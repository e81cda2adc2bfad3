// SPDX-License-Identifier: Apache-2.0
// What KV sparsification costs in quality, by teacher forcing on the host device: perplexity of a text and
// how often the likeliest token is the exact model's, and whether a number hidden at some depth of a text is
// found again. One JSON line a method, granularity and budget (and depth).

#include <algorithm>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include "bench/sparse/forced_decoding.hpp"
#include "model/tokenizer.hpp"

namespace spillway::bench {
namespace {

namespace json = boost::json;
using TokenIds = std::vector<model::TokenId>;

constexpr const char* kUsage =
    "usage: bench_sparse_quality [--model PATH] [--text FILE] [--task perplexity|needle] [--context TOKENS]\n"
    "  [--prompt TOKENS] [--windows N] [--depths N] [--methods LIST] [--granularities LIST] [--percents "
    "LIST]\n"
    "  [--threads N] [--kv-cache-memory-mib N]\n";

struct Options {
  std::string model = "models/SmolLM2-135M-Instruct.Q4_1.gguf", text = "bench/sparse/data/opticks.txt",
              task = "perplexity";
  std::vector<std::string> methods = {"h2o", "tova", "snapkv", "streaming", "random"},
                           granularities = {"head", "layer", "token"};
  std::vector<std::uint32_t> percents = {100, 50, 25, 12};  // budgets, of the context
  std::uint32_t context = 2048, prompt = 1024, windows = 2, depths = 8, threads = 0;
  std::size_t kv_bytes = std::size_t{2} << 30;
};

[[noreturn]] void refuse(const std::string& message) {
  std::cerr << "bench_sparse_quality: " << message << "\n" << kUsage;
  std::exit(2);
}

template <class T>
T number(std::string_view option, std::string_view text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value == 0)
    refuse(std::string(option) + " wants a whole number over 0, not '" + std::string(text) + "'");
  return value;
}

std::vector<std::string> words(std::string_view text) {
  std::vector<std::string> list;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find(','), text.size());
    list.emplace_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return list;
}

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; i += 2) {
    const std::string_view name = argv[i], value = i + 1 < argc ? argv[i + 1] : "";
    if (name == "--model")
      options.model = value;
    else if (name == "--text")
      options.text = value;
    else if (name == "--task")
      options.task = value;
    else if (name == "--methods")
      options.methods = words(value);
    else if (name == "--granularities")
      options.granularities = words(value);
    else if (name == "--percents") {
      options.percents.clear();
      for (const std::string& word : words(value))
        options.percents.push_back(number<std::uint32_t>(name, word));
    } else if (name == "--context")
      options.context = number<std::uint32_t>(name, value);
    else if (name == "--prompt")
      options.prompt = number<std::uint32_t>(name, value);
    else if (name == "--windows")
      options.windows = number<std::uint32_t>(name, value);
    else if (name == "--depths")
      options.depths = number<std::uint32_t>(name, value);
    else if (name == "--threads")
      options.threads = number<std::uint32_t>(name, value);
    else if (name == "--kv-cache-memory-mib")
      options.kv_bytes = number<std::size_t>(name, value) << 20;
    else
      refuse("unknown option '" + std::string(name) + "'");
  }
  if (options.task != "perplexity" && options.task != "needle") refuse("--task is perplexity or needle");
  if (options.prompt >= options.context) refuse("--prompt is less than --context");
  return options;
}

template <class T>
T known(Result<T> result) {
  if (!result) refuse(result.error().message);
  return *std::move(result);
}

struct Configuration {
  model::SparseKvParams params;
  std::uint32_t percent = 100;
};

/// Exact first. Streaming is the same at every granularity: age is no head's own.
std::vector<Configuration> configurations(const Options& options) {
  std::vector<Configuration> all(1);
  for (const std::string& method : options.methods) {
    for (const std::string& granularity : options.granularities) {
      const model::SparseKvParams params{.method = known(model::parse_sparse_method(method)),
                                         .granularity = known(model::parse_sparse_granularity(granularity))};
      if (params.method == model::SparseMethod::kStreaming && granularity != options.granularities.front())
        continue;
      for (const std::uint32_t percent : options.percents) {
        all.push_back({params, percent});
        all.back().params.budget = options.context * percent / 100;
      }
    }
  }
  return all;
}

json::object about(const Configuration& configuration, const Options& options) {
  const model::SparseKvParams& params = configuration.params;
  return {
      {"method", model::name_of(params.method)},
      {"granularity", params.on() ? json::value(model::name_of(params.granularity)) : json::value(nullptr)},
      {"budget", params.on() ? params.budget : options.context},
      {"percent", configuration.percent},
      {"context", options.context}};
}

/// Sums over all windows.
struct Judged {
  double negative_log = 0;
  std::size_t tokens = 0, agreed = 0;

  void add(const std::vector<Prediction>& predicted, const std::vector<Prediction>& exact) {
    for (std::size_t i = 0; i < predicted.size(); ++i) {
      negative_log -= static_cast<double>(predicted[i].logprob);
      agreed += predicted[i].likeliest == exact[i].likeliest;
    }
    tokens += predicted.size();
  }
};

void run_perplexity(const model::Model& model, const Options& options, const TokenIds& text) {
  const std::vector<Configuration> all = configurations(options);
  std::vector<Judged> judged(all.size());
  for (std::uint32_t w = 0; w < options.windows; ++w) {
    const std::size_t begin = std::size_t{w} * options.context;
    if (begin + options.context + 1 > text.size())
      refuse("the text has " + std::to_string(text.size()) + " tokens, too few for window " +
             std::to_string(w + 1));
    std::vector<ForcedSequence> sequences;
    for (const Configuration& configuration : all) {
      const auto first = text.begin() + static_cast<std::ptrdiff_t>(begin);
      sequences.push_back(
          {TokenIds(first, first + options.context + 1), options.prompt, configuration.params});
    }
    const auto predictions = known(decode_forced(model, sequences, options.threads, options.kv_bytes));
    for (std::size_t i = 0; i < all.size(); ++i) judged[i].add(predictions[i], predictions[0]);
    std::cerr << "window " << w + 1 << " of " << options.windows << "\n";
  }
  for (std::size_t i = 0; i < all.size(); ++i) {
    json::object line = about(all[i], options);
    const auto tokens = static_cast<double>(judged[i].tokens);
    line["perplexity"] = std::exp(judged[i].negative_log / tokens);
    line["agreement"] = static_cast<double>(judged[i].agreed) / tokens;
    line["tokens"] = judged[i].tokens;
    std::cout << json::serialize(line) << std::endl;
  }
}

/// The text with a sentence that holds a number at `depth` of [0, 1], and a question that ends where the
/// number would follow.
ForcedSequence needle_at(double depth, std::uint32_t number, const Options& options, const TokenIds& text,
                         const model::Tokenizer& tokenizer) {
  const auto encode = [&tokenizer](const std::string& words) {
    return tokenizer.encode(words, {.add_special_tokens = false});
  };
  const std::string secret = " The secret number of the observatory is";
  const TokenIds needle = encode(secret + " " + std::to_string(number) + ". Remember it.");
  const TokenIds question =
      encode("\n\nQuestion: What is the secret number of the observatory?\nAnswer:" + secret);
  const TokenIds answer = encode(" " + std::to_string(number));
  const std::size_t hay = options.context - needle.size() - question.size();
  const auto place = static_cast<std::ptrdiff_t>(depth * static_cast<double>(hay));
  ForcedSequence sequence;
  sequence.tokens.assign(text.begin(), text.begin() + place);
  sequence.tokens.insert(sequence.tokens.end(), needle.begin(), needle.end());
  sequence.tokens.insert(sequence.tokens.end(), text.begin() + place,
                         text.begin() + static_cast<std::ptrdiff_t>(hay));
  sequence.tokens.insert(sequence.tokens.end(), question.begin(), question.end());
  sequence.prompt_length = static_cast<std::uint32_t>(sequence.tokens.size());
  sequence.tokens.insert(sequence.tokens.end(), answer.begin(), answer.end());
  return sequence;
}

/// Found: every token of the number is the likeliest one in its place.
void run_needle(const model::Model& model, const Options& options, const TokenIds& text,
                const model::Tokenizer& tokenizer) {
  const std::vector<Configuration> all = configurations(options);
  const std::vector<std::uint32_t> numbers = {48213, 70956};
  if (text.size() < options.context) refuse("the text is shorter than the context");
  for (std::uint32_t d = 0; d < options.depths; ++d) {
    const double depth = options.depths == 1 ? 0.5 : static_cast<double>(d) / (options.depths - 1);
    std::vector<ForcedSequence> sequences;
    for (const Configuration& configuration : all) {
      for (const std::uint32_t number : numbers) {
        sequences.push_back(needle_at(depth, number, options, text, tokenizer));
        sequences.back().sparse = configuration.params;
      }
    }
    const auto predictions = known(decode_forced(model, sequences, options.threads, options.kv_bytes));
    for (std::size_t i = 0; i < all.size(); ++i) {
      std::size_t found = 0;
      for (std::size_t n = 0; n < numbers.size(); ++n) {
        const ForcedSequence& sequence = sequences[i * numbers.size() + n];
        const std::vector<Prediction>& predicted = predictions[i * numbers.size() + n];
        bool right = true;
        for (std::size_t t = 0; t < predicted.size(); ++t)
          right = right && predicted[t].likeliest == sequence.tokens[sequence.prompt_length + t];
        found += right;
      }
      json::object line = about(all[i], options);
      line["depth"] = depth;
      line["found"] = found;
      line["trials"] = numbers.size();
      std::cout << json::serialize(line) << std::endl;
    }
    std::cerr << "depth " << d + 1 << " of " << options.depths << "\n";
  }
}

int run(const Options& options) {
  const model::Model model = known(model::Model::load(options.model));
  const model::Tokenizer tokenizer = known(model::load_tokenizer(model));
  std::ifstream file(options.text);
  const std::string text((std::istreambuf_iterator<char>(file)), {});
  if (text.empty()) refuse("cannot read " + options.text);
  const TokenIds ids = tokenizer.encode(text, {});
  options.task == "needle" ? run_needle(model, options, ids, tokenizer) : run_perplexity(model, options, ids);
  return 0;
}

}  // namespace
}  // namespace spillway::bench

int main(int argc, char** argv) { return spillway::bench::run(spillway::bench::parse(argc, argv)); }
