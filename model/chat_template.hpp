// SPDX-License-Identifier: Apache-2.0
#pragma once

// A model's chat template: turns a conversation into the prompt text the model was trained on.
//
// Templates are Jinja2 programs that come with the model file, so they are hostile input: an interpreter of
// our own runs the part of the language that real templates use, with bounds on nesting, steps and memory
// (model/jinja_*.hpp). Rendering follows Hugging Face transformers' apply_chat_template: trim_blocks and
// lstrip_blocks are on, and raise_exception, strftime_now, tojson and namespace exist.

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "runtime/result.hpp"

namespace spillway::model {

struct Message {
  std::string role;  // "system", "user", "assistant", ...
  std::string content;
};

struct ChatRenderOptions {
  bool add_generation_prompt = true;  // end with the opening of an assistant's turn
  std::string_view bos_token, eos_token;
  /// Seconds since 1970 UTC for strftime_now. Without it the function is undefined, and templates that use it
  /// (Llama 3.2) fall back to their built-in date.
  std::optional<std::int64_t> now_unix_s;
  /// Further variables a template may ask for, such as enable_thinking.
  std::vector<std::pair<std::string, std::variant<bool, std::int64_t, std::string>>> extra;
};

class ChatTemplate {
 public:
  /// Parses `source`; `name` stands for it in messages ("NAME:LINE:COLUMN: ..."). Any bytes are safe to pass.
  [[nodiscard]] static Result<ChatTemplate> compile(std::string_view source, std::string_view name);

  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;
  ~ChatTemplate();

  /// kInvalidArgument: the template refused the conversation (raise_exception) or failed on it; the message
  /// names line and column. kUnsupported: it needs a construct or more resources than the interpreter has.
  [[nodiscard]] Result<std::string> render(std::span<const Message> messages,
                                           const ChatRenderOptions& options = {}) const;

  struct Program;  // model/jinja_ast.hpp

 private:
  explicit ChatTemplate(std::unique_ptr<const Program> program) noexcept;
  std::unique_ptr<const Program> program_;
};

}  // namespace spillway::model
