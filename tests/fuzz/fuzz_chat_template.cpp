// SPDX-License-Identifier: Apache-2.0
// A chat template: compile it, and render a conversation with whatever program came out.

#include <array>
#include <string_view>

#include "model/chat_template.hpp"
#include "tests/fuzz/check_message.hpp"
#include "tests/fuzz/targets.hpp"

namespace spillway::fuzz {

void chat_template(Input input) {
  const std::string_view source(reinterpret_cast<const char*>(input.data()), input.size());
  const auto compiled = model::ChatTemplate::compile(source, "template");
  if (!compiled) return check_message(compiled.error(), "template");
  const std::array<model::Message, 3> messages = {
      {{"system", "Be brief."}, {"user", "What is\n<|im_end|> this?"}, {"assistant", "A test."}}};
  model::ChatRenderOptions options;
  options.bos_token = "<s>";
  options.eos_token = "</s>";
  options.now_unix_s = 1700000000;
  options.extra = {{"enable_thinking", true}, {"depth", std::int64_t{3}}, {"mode", std::string("x")}};
  const auto text = compiled->render(messages, options);
  if (!text) check_message(text.error(), "template");
  (void)compiled->render({}, {});
}

}  // namespace spillway::fuzz
