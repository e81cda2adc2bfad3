// SPDX-License-Identifier: Apache-2.0
#include "cli/bench_prompts.hpp"

namespace spillway::cli {

Result<model::Tokenizer> load_tokenizer_of(const std::filesystem::path& model) {
  // A tokenizer.json alone will do: then no weights need be there.
  if (model.filename() == "tokenizer.json") return model::Tokenizer::from_tokenizer_json(model);
  const Result<model::Model> loaded = model::Model::load(model);
  if (!loaded) return loaded.error();
  return model::load_tokenizer(*loaded);
}

net::load::CountTokens counter_of(const model::Tokenizer& tokenizer) {
  return [&tokenizer](std::string_view text) -> Result<std::size_t> {
    return tokenizer.encode(text, {.add_special_tokens = false}).size();
  };
}

}  // namespace spillway::cli
