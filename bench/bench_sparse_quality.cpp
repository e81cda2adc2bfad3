// SPDX-License-Identifier: Apache-2.0
// What KV sparsification costs in quality, by teacher forcing on the host device: perplexity of a text and
// how often the likeliest token is the exact model's, and whether a number hidden at some depth of a text is
// found again. One JSON line a method, granularity and budget (and depth).

#include <algorithm>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include "bench/sparse/forced_decoding.hpp"
#include "bench/sparse/option_reader.hpp"
#include "bench/sparse/result_line.hpp"
#include "model/tokenizer.hpp"
#include "runtime/random.hpp"

namespace spillway::bench {
namespace {

namespace json = boost::json;
using TokenIds = std::vector<model::TokenId>;

constexpr const char* kUsage =
    "usage: bench_sparse_quality [--model PATH] [--text FILE] [--task perplexity|needle] [--context TOKENS]\n"
    "  [--prompt TOKENS] [--windows N] [--depths N] [--needles N (at each depth)] [--methods LIST]\n"
    "  [--granularities LIST] [--percents LIST] [--threads N] [--kv-cache-memory-mib N]\n"
    "LIST: words between commas.\n";

struct Options {
  std::string model = "models/SmolLM2-135M-Instruct.Q4_1.gguf", text = "bench/sparse/data/opticks.txt",
              task = "perplexity";
  SparseGrid grid{.methods = {"h2o", "tova", "snapkv", "streaming", "random"},
                  .granularities = {"head", "layer", "token"}};
  std::vector<std::uint32_t> percents = {100, 50, 25, 12};  // budgets, of the context
  std::uint32_t context = 2048, prompt = 1024, windows = 2, depths = 4, needles = 3, threads = 0,
                kv_mib = 2048;
};

/// `options` is filled by read().
void add_options(OptionReader& reader, Options& options) {
  options.grid.add_to(reader);
  reader.add("--model", options.model);
  reader.add("--text", options.text);
  reader.add("--task", options.task);
  reader.add("--percents", options.percents);
  reader.add("--context", options.context);
  reader.add("--prompt", options.prompt);
  reader.add("--windows", options.windows);
  reader.add("--depths", options.depths);
  reader.add("--needles", options.needles);
  reader.add("--threads", options.threads);
  reader.add("--kv-cache-memory-mib", options.kv_mib);
}

struct Configuration {
  model::SparseKvParams params;
  std::uint32_t percent = 100;
};

/// Exact first.
std::vector<Configuration> configurations(const Options& options, const OptionReader& reader) {
  std::vector<Configuration> all(1);
  for (model::SparseKvParams params : options.grid.all(reader)) {
    for (const std::uint32_t percent : options.percents) {
      params.budget = options.context * percent / 100;
      all.push_back({params, percent});
    }
  }
  return all;
}

json::object about(const Configuration& configuration, const Options& options) {
  json::object line =
      result_line(configuration.params, std::filesystem::path(options.text).stem().string() + " forced");
  line["percent"] = configuration.percent;
  line["context"] = options.context;
  return line;
}

/// Runs one batch and tells on stderr, every tenth of it, how far it is.
std::vector<std::vector<Prediction>> decode(const model::Model& model, const Options& options,
                                            const OptionReader& reader, const std::string& what,
                                            const std::vector<ForcedSequence>& sequences) {
  std::size_t tenths = 0;
  const auto progress = [&what, &tenths](std::size_t done, std::size_t total) {
    if (10 * done / total == tenths) return;
    tenths = 10 * done / total;
    std::cerr << what << ": " << 10 * tenths << "%" << std::endl;
  };
  return reader.known(
      decode_forced(model, sequences, options.threads, std::size_t{options.kv_mib} << 20, progress));
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

void run_perplexity(const model::Model& model, const Options& options, const OptionReader& reader,
                    const TokenIds& text) {
  const std::vector<Configuration> all = configurations(options, reader);
  std::vector<Judged> judged(all.size());
  for (std::uint32_t w = 0; w < options.windows; ++w) {
    const std::size_t begin = std::size_t{w} * options.context;
    if (begin + options.context + 1 > text.size())
      reader.refuse("the text has " + std::to_string(text.size()) + " tokens, too few for window " +
                    std::to_string(w + 1));
    std::vector<ForcedSequence> sequences;
    for (const Configuration& configuration : all) {
      const auto first = text.begin() + static_cast<std::ptrdiff_t>(begin);
      sequences.push_back(
          {TokenIds(first, first + options.context + 1), options.prompt, configuration.params});
    }
    const std::string what =
        "perplexity, window " + std::to_string(w + 1) + " of " + std::to_string(options.windows);
    const auto predictions = decode(model, options, reader, what, sequences);
    for (std::size_t i = 0; i < all.size(); ++i) judged[i].add(predictions[i], predictions[0]);
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

/// A number that is hidden, how deep in the text ([0, 1]) and where in it the text begins.
struct Needle {
  std::uint64_t number = 0;
  double depth = 0;
  std::size_t first_token = 0;
};

/// The text with a sentence that holds the number, and a question that ends where the number would follow.
ForcedSequence hide(const Needle& needle, const Options& options, const TokenIds& text,
                    const model::Tokenizer& tokenizer) {
  const auto encode = [&tokenizer](const std::string& words) {
    return tokenizer.encode(words, {.add_special_tokens = false});
  };
  const std::string secret = " The secret number of the observatory is";
  const TokenIds sentence = encode(secret + " " + std::to_string(needle.number) + ". Remember it.");
  const TokenIds question =
      encode("\n\nQuestion: What is the secret number of the observatory?\nAnswer:" + secret);
  const TokenIds answer = encode(" " + std::to_string(needle.number));
  const std::size_t hay = options.context - sentence.size() - question.size();
  const auto begin = text.begin() + static_cast<std::ptrdiff_t>(needle.first_token);
  const auto place = begin + static_cast<std::ptrdiff_t>(needle.depth * static_cast<double>(hay));
  ForcedSequence sequence;
  sequence.tokens.assign(begin, place);
  sequence.tokens.insert(sequence.tokens.end(), sentence.begin(), sentence.end());
  sequence.tokens.insert(sequence.tokens.end(), place, begin + static_cast<std::ptrdiff_t>(hay));
  sequence.tokens.insert(sequence.tokens.end(), question.begin(), question.end());
  sequence.prompt_length = static_cast<std::uint32_t>(sequence.tokens.size());
  sequence.tokens.insert(sequence.tokens.end(), answer.begin(), answer.end());
  return sequence;
}

/// Tokens of the answer that were the likeliest ones, from its first on.
std::size_t leading_right(const ForcedSequence& sequence, const std::vector<Prediction>& predicted) {
  std::size_t right = 0;
  while (right < predicted.size() &&
         predicted[right].likeliest == sequence.tokens[sequence.prompt_length + right])
    ++right;
  return right;
}

/// Found: every token of the number is the likeliest one in its place.
void run_needle(const model::Model& model, const Options& options, const OptionReader& reader,
                const TokenIds& text, const model::Tokenizer& tokenizer) {
  const std::vector<Configuration> all = configurations(options, reader);
  if (text.size() < options.context) reader.refuse("the text is shorter than the context");
  runtime::Random random(7);
  for (std::uint32_t d = 0; d < options.depths; ++d) {
    const double depth = (d + 0.5) / options.depths;
    std::vector<Needle> needles(options.needles);
    for (Needle& needle : needles)
      needle = {10000 + random.below(90000), depth, random.below(text.size() - options.context + 1)};
    std::vector<ForcedSequence> sequences;
    for (const Configuration& configuration : all) {
      for (const Needle& needle : needles) {
        sequences.push_back(hide(needle, options, text, tokenizer));
        sequences.back().sparse = configuration.params;
      }
    }
    const std::string what =
        "needle, depth " + std::to_string(d + 1) + " of " + std::to_string(options.depths);
    const auto predictions = decode(model, options, reader, what, sequences);
    for (std::size_t i = 0; i < all.size(); ++i) {
      std::size_t found = 0, right = 0, tokens = 0;
      for (std::size_t n = i * needles.size(); n < (i + 1) * needles.size(); ++n) {
        const std::size_t leading = leading_right(sequences[n], predictions[n]);
        found += leading == predictions[n].size();
        right += leading;
        tokens += predictions[n].size();
      }
      json::object line = about(all[i], options);
      line["depth"] = depth;
      line["found"] = found;
      line["trials"] = needles.size();
      line["tokens_right"] = static_cast<double>(right) / static_cast<double>(tokens);
      std::cout << json::serialize(line) << std::endl;
    }
  }
}

int run(int argc, char** argv) {
  Options options;
  OptionReader reader("bench_sparse_quality", kUsage);
  add_options(reader, options);
  reader.read(argc, argv);
  if (options.task != "perplexity" && options.task != "needle")
    reader.refuse("--task is perplexity or needle");
  if (options.prompt == 0 || options.prompt >= options.context)
    reader.refuse("--prompt is at least 1 and less than --context");
  const model::Model model = reader.known(model::Model::load(options.model));
  const model::Tokenizer tokenizer = reader.known(model::load_tokenizer(model));
  std::ifstream file(options.text);
  const std::string text((std::istreambuf_iterator<char>(file)), {});
  if (text.empty()) reader.refuse("cannot read " + options.text);
  const TokenIds ids = tokenizer.encode(text, {});
  options.task == "needle" ? run_needle(model, options, reader, ids, tokenizer)
                           : run_perplexity(model, options, reader, ids);
  return 0;
}

}  // namespace
}  // namespace spillway::bench

int main(int argc, char** argv) { return spillway::bench::run(argc, argv); }
