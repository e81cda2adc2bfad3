// SPDX-License-Identifier: Apache-2.0
#include "model/chat_template.hpp"

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/string.hpp>
#include <string>
#include <vector>

#include "model/gguf.hpp"
#include "model/json.hpp"
#include "tests/model/tokenizer_reference.hpp"
#include "tests/support/catch.hpp"

namespace spillway::model::test {
namespace {

namespace json = boost::json;

std::string text_of(const json::value& value) {
  return {value.get_string().data(), value.get_string().size()};
}

Result<std::string> render(std::string_view source, const std::vector<Message>& messages = {},
                           const ChatRenderOptions& options = {}) {
  const auto compiled = ChatTemplate::compile(source, "t.jinja");
  if (!compiled) return compiled.error();
  return compiled->render(messages, options);
}

std::string rendered(std::string_view source, const std::vector<Message>& messages = {}) {
  const auto text = render(source, messages);
  return text.ok() ? *text : "error: " + text.error().message;
}

}  // namespace

TEST_CASE("chat template: templates of a dozen families and every construct render as in transformers") {
  const auto path = std::filesystem::path(SPW_SOURCE_DIR) / "tests/data/chat_template/cases.json";
  const auto cases = parse_json_file(path, std::size_t{4} << 20);
  REQUIRE(cases.ok());
  REQUIRE(cases->get_array().size() > 120);
  for (const json::value& entry : cases->get_array()) {
    const json::object& c = entry.get_object();
    std::vector<Message> messages;
    for (const json::value& m : c.at("messages").get_array())
      messages.push_back({text_of(m.get_object().at("role")), text_of(m.get_object().at("content"))});
    ChatRenderOptions options;
    options.add_generation_prompt = c.at("generation").get_bool();
    options.bos_token = "<s>";
    options.eos_token = "</s>";
    for (const auto& [key, value] : c.at("extra").get_object()) {
      if (value.is_bool())
        options.extra.emplace_back(std::string(key), value.get_bool());
      else
        options.extra.emplace_back(std::string(key), text_of(value));
    }
    const auto got = render(text_of(c.at("template")), messages, options);
    INFO(text_of(c.at("name")) << "\n" << text_of(c.at("template")));
    if (c.contains("error")) {
      INFO(text_of(c.at("why")));
      CHECK_FALSE(got.ok());
    } else {
      INFO((got.ok() ? "no error" : got.error().message));
      CHECK((got.ok() ? *got : "") == text_of(c.at("output")));
    }
  }
}

TEST_CASE("chat template: SmolLM2's own") {
  if (!std::filesystem::exists(smollm2_path())) {
    WARN("skipped: there is no " << smollm2_path().string());
    return;
  }
  const auto file = GgufFile::open(smollm2_path());
  REQUIRE(file.ok());
  const auto source = file->string("tokenizer.chat_template");
  REQUIRE(source.ok());
  CHECK(rendered(*source, {{"user", "Hi"}}) ==
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
  CHECK(rendered(*source, {{"system", "S"}, {"user", "a"}, {"assistant", "b"}, {"user", "c"}}) ==
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
        "<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n");
}

TEST_CASE("chat template: an error names the template, line, column and construct") {
  const auto failing = [](std::string_view source) {
    const auto text = render(source, {{"user", "x"}});
    return text.ok() ? "no error: " + *text : text.error().message;
  };
  CHECK(failing("a\nb {% foo %}").find("t.jinja:2:6: statement 'foo' is not supported") == 0);
  CHECK(failing("{{ 1 | frobnicate }}") == "t.jinja:1:8: filter 'frobnicate' is not supported");
  CHECK(failing("{{ messages[0].role.nope.x }}").find("t.jinja:1:25: 'nope' is undefined") == 0);
  CHECK(failing("\n\n{{ raise_exception('no ' ~ messages[0].role) }}").find("t.jinja:3:") == 0);
  CHECK(failing("{{ raise_exception('no ' ~ messages[0].role) }}").find("no user") != std::string::npos);
  CHECK(failing("{% for x in messages %}").find("expected {% endfor %}") != std::string::npos);
  CHECK(failing("{{ 'abc }}").find("t.jinja:1:4: the string has no closing quote") == 0);
  CHECK(failing("{% for x in y recursive %}{% endfor %}").find("recursive") != std::string::npos);
}

TEST_CASE("chat template: strftime_now tells the time it is given and is undefined without") {
  ChatRenderOptions options;
  CHECK(*render("{{ strftime_now is defined }}", {}, options) == "False");
  options.now_unix_s = 1795417200;
  CHECK(*render("{{ strftime_now('%d %b %Y') }}", {}, options) == "23 Nov 2026");
}

TEST_CASE("chat template: extra variables reach the template") {
  ChatRenderOptions options;
  options.extra = {{"flag", false}, {"count", std::int64_t{3}}, {"word", std::string("w")}};
  CHECK(*render("{{ flag }} {{ count + 1 }} {{ word }}", {}, options) == "False 4 w");
}

TEST_CASE("chat template: hostile templates end with an error") {
  const std::string deep_brackets = "{{ " + std::string(5000, '(') + "1" + std::string(5000, ')') + " }}";
  std::string deep_ifs, sums = "{{ 1", filters = "{{ 1", nested = "{% set a = [1] %}",
                        doubled = "{% set a = ['x'] %}";
  for (int i = 0; i < 5000; ++i) deep_ifs += "{% if 1 %}";
  for (int i = 0; i < 5000; ++i) sums += " + 1";
  for (int i = 0; i < 5000; ++i) filters += "|string";
  for (int i = 0; i < 5000; ++i) nested += "{% set a = [a] %}";
  for (int i = 0; i < 60; ++i) doubled += "{% set a = [a, a] %}";
  const std::vector<std::string> hostile = {
      deep_brackets,
      deep_ifs,
      sums + " }}",
      filters + " }}",
      nested,
      doubled + "{{ a }}",
      doubled + "{{ a == a|list }}",
      "{{ " + std::string(5000, '[') + " }}",
      "{{ " + std::string(20000, '-') + "1 }}",
      "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
      "{% for i in range(1000) %}{% for j in range(1000) %}{% for k in range(1000) %}x{% endfor %}{% endfor "
      "%}{% endfor %}",
      "{{ range(10000000000) }}",
      "{{ 'x' * 10000000000 }}",
      "{{ [1] * 1000000000000000 }}",
      "{{ 9999999999999999999 }}",
      "{{ 9223372036854775807 + 1 }}",
      "{{ 2 ** 64 }}",
      "{{ (-9223372036854775807 - 1) // -1 }}",
      "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(100) %}{% set ns.s = ns.s + ns.s %}{% endfor "
      "%}",
      "{% set ns = namespace() %}{% set ns.n = ns %}{{ ns }}",
      "{% set ns = namespace() %}{% set ns.n = [ns] %}{{ ns }}",
      "{% for x in [1] %}{% set l = [loop] %}{% endfor %}",
      "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
      "{% macro m(a) %}{{ m([a]) }}{% endmacro %}{{ m(1) }}",
      "{{ ('x' * 100000).replace('x', 'y' * 100000) }}",
      "{{ ('x' * 1000000) | map('upper') | join(',' * 1000) }}",
      "{{ ('a\n' * 100000) | indent(1000) }}",
      "{{ ('x ' * 1000000).split() | map('string') | list | tojson(indent=16) }}",
      "{% for i in range(100000) %}{{ 'x' * 100000 in 'y' * 100000 }}{% endfor %}",
      "{{",
      "{%",
      "{#",
      "{{ '",
      "{% raw %}",
      "{{ a.b.",
      "{{ [1][",
      "{{ x is",
      "{{ x |",
      "{% set",
      "{% if",
      "{% for",
      "{% macro",
      "{% macro m(",
      "{{ m(a="};
  for (const std::string& source : hostile) {
    INFO(source.substr(0, 120));
    CHECK_FALSE(render(source, {{"user", "x"}}).ok());
  }
  CHECK_FALSE(ChatTemplate::compile(std::string((1 << 20) + 1, 'x'), "big").ok());
}

TEST_CASE("chat template: a long conversation is within the bounds") {
  std::vector<Message> messages;
  for (int i = 0; i < 2000; ++i)
    messages.push_back({i % 2 == 0 ? "user" : "assistant", std::string(2000, 'x')});
  const auto text = render(
      "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] | trim + '<|im_end|>' + "
      "'\n' }}"
      "{% endfor %}",
      messages);
  INFO((text.ok() ? "" : text.error().message));
  REQUIRE(text.ok());
  CHECK(text->size() > 4'000'000);
}

TEST_CASE("chat template: one compiled template renders many conversations") {
  const auto compiled = ChatTemplate::compile(
      "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
      "{% endfor %}{{ ns.n }}",
      "t");
  REQUIRE(compiled.ok());
  const std::vector<Message> two = {{"user", "a"}, {"user", "b"}};
  CHECK(*compiled->render(two) == "2");
  CHECK(*compiled->render(two) == "2");
  CHECK(*compiled->render({}) == "0");
}

}  // namespace spillway::model::test
