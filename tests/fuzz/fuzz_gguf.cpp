// SPDX-License-Identifier: Apache-2.0
// A GGUF file: every getter on every key, every tensor's bytes, the model it describes, and its tokenizer.

#include "model/gguf.hpp"
#include "model/gguf_config.hpp"
#include "model/tensor_sources.hpp"
#include "model/tokenizer.hpp"
#include "tests/fuzz/check_message.hpp"
#include "tests/fuzz/targets.hpp"

namespace spillway::fuzz {
namespace {

using namespace spillway::model;

template <class T>
void check(const Result<T>& result) {
  if (!result) check_message(result.error(), "fuzz.gguf");
}

void read_metadata(const GgufFile& file) {
  for (const std::string_view key : file.keys()) {
    check(file.integer(key));
    check(file.number(key));
    check(file.boolean(key));
    check(file.string(key));
    check(file.strings(key));
    check(file.integers(key));
    check(file.numbers(key));
  }
}

/// Touches the ends of every tensor, where an overrun would show.
void read_tensors(const GgufFile& file, Input input) {
  for (const GgufTensor& entry : file.tensors()) {
    const auto view = file.tensor(entry.name);
    check(view);
    if (!view) continue;
    SPW_CHECK(!view->data.empty());
    SPW_CHECK(view->data.data() >= input.data());
    SPW_CHECK(view->data.data() + view->data.size() <= input.data() + input.size());
    SPW_CHECK(view->rows() * view->cols() > 0);
  }
}

}  // namespace

void gguf(Input input) {
  const auto file = GgufFile::parse(input, "fuzz.gguf");
  check(file);
  if (!file) return;
  read_metadata(*file);
  read_tensors(*file, input);
  const GgufFamily* family = nullptr;
  const auto model = describe_gguf(*file, &family);
  check(model);
  if (model) check(map_weights(GgufSource(*file), *family->tensors, *model));
  const auto tokenizer = Tokenizer::from_gguf(*file);
  if (tokenizer) (void)tokenizer->decode(tokenizer->encode("a b\n12 \xc3\xa9\xff<s>"));
}

}  // namespace spillway::fuzz
