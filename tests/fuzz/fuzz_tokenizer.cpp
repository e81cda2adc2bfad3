// SPDX-License-Identifier: Apache-2.0
// tokenizer.json: load it, then encode and decode with whatever tokenizer came out.

#include <string_view>

#include "model/tokenizer.hpp"
#include "tests/fuzz/check_message.hpp"
#include "tests/fuzz/targets.hpp"

namespace spillway::fuzz {

void tokenizer(Input input) {
  const std::string_view text(reinterpret_cast<const char*>(input.data()), input.size());
  const auto loaded = model::parse_tokenizer_json(text, "tokenizer.json");
  if (!loaded) return check_message(loaded.error(), "tokenizer.json");
  for (const bool special : {false, true}) {
    for (const std::string_view sample :
         {std::string_view("Hello  world\n\t1234 it's \xc3\xa9\xe4\xbd\xa0\xf0\x9f\x98\x80"),
          std::string_view("\xff\xc3 <s><|im_end|>\0x", 18), text.substr(0, 300)}) {
      const auto ids = loaded->encode(sample, {.add_special_tokens = special, .parse_special = special});
      for (const model::TokenId id : ids) SPW_CHECK(id >= 0 && id < loaded->vocab_size());
      (void)loaded->decode(ids, special);
    }
  }
}

}  // namespace spillway::fuzz
