// SPDX-License-Identifier: Apache-2.0
#include "model/chat_template.hpp"

#include "model/jinja_ast.hpp"
#include "model/jinja_eval.hpp"
#include "model/jinja_lexer.hpp"
#include "model/jinja_parser.hpp"

namespace spillway::model {
namespace {

constexpr std::size_t kSourceBytesMax = std::size_t{1} << 20;  // the longest in use has about 30 KB

jinja::Value to_value(const std::variant<bool, std::int64_t, std::string>& value) {
  if (const bool* b = std::get_if<bool>(&value)) return jinja::Value::boolean(*b);
  if (const std::int64_t* i = std::get_if<std::int64_t>(&value)) return jinja::Value::integer(*i);
  return jinja::Value::string(std::get<std::string>(value));
}

}  // namespace

ChatTemplate::ChatTemplate(std::unique_ptr<const Program> program) noexcept : program_(std::move(program)) {}
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;
ChatTemplate::~ChatTemplate() = default;

Result<ChatTemplate> ChatTemplate::compile(std::string_view source, std::string_view name) {
  if (source.size() > kSourceBytesMax)
    return Error{Errc::kUnsupported, std::string(name) + ": " + std::to_string(source.size()) +
                                         " bytes of chat template; at most " +
                                         std::to_string(kSourceBytesMax) + " are supported"};
  auto program = std::make_unique<Program>();
  program->name = name;
  program->source = jinja::normalize_source(source);
  Result<std::vector<jinja::Token>> tokens = jinja::tokenize(program->source, program->name);
  if (!tokens) return std::move(tokens).error();
  Result<jinja::Body> body = jinja::parse(std::move(tokens).value(), program->source, program->name);
  if (!body) return std::move(body).error();
  program->body = std::move(body).value();
  return ChatTemplate(std::move(program));
}

Result<std::string> ChatTemplate::render(std::span<const Message> messages,
                                         const ChatRenderOptions& options) const {
  using jinja::Value;
  std::uint64_t input_bytes = program_->source.size();
  for (const Message& message : messages) input_bytes += message.role.size() + message.content.size() + 256;
  jinja::Context context(program_->name, program_->source, input_bytes, options.now_unix_s);

  std::vector<Value> list;
  list.reserve(messages.size());
  for (const Message& message : messages)
    list.push_back(context.dict(
        0, {{"role", Value::string(message.role)}, {"content", Value::string(message.content)}}));
  jinja::Variables variables = {
      {"messages", context.list(0, std::move(list))},
      {"add_generation_prompt", Value::boolean(options.add_generation_prompt)},
      {"bos_token", Value::string(std::string(options.bos_token))},
      {"eos_token", Value::string(std::string(options.eos_token))},
      // apply_chat_template passes these always; without tools or documents they are None.
      {"tools", Value::none()},
      {"documents", Value::none()},
  };
  for (const auto& [name, value] : options.extra) variables.emplace_back(name, to_value(value));

  std::string text = jinja::evaluate(program_->body, context, variables);
  if (context.failed()) return context.error();
  return text;
}

}  // namespace spillway::model
