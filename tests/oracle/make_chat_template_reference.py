#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes tests/data/chat_template/cases.json: templates, conversations and what transformers renders from them.

    pip install transformers jinja2
    tests/oracle/make_chat_template_reference.py

The templates are ours, written in the style of the model families they are named after: the same markup, the same
constructs. Snippets below them try one construct each. "error": true means that transformers raises.
"""
import json
from pathlib import Path

from transformers.utils.chat_template_utils import _compile_jinja_template

OUT = Path(__file__).resolve().parent.parent / "data" / "chat_template" / "cases.json"

TEMPLATES = {
    "chatml": """
{%- for m in messages %}
{{- '<|im_start|>' ~ m.role ~ '\\n' ~ m.content ~ '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
""",
    "llama2": """
{% if messages and messages[0]['role'] == 'system' %}
  {% set system = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' %}
  {% set rest = messages[1:] %}
{% else %}
  {% set system = '' %}
  {% set rest = messages %}
{% endif %}
{% for message in rest %}
  {% if (message.role == 'user') != (loop.index0 % 2 == 0) %}
    {{ raise_exception('roles must take turns: user, assistant, user, ...') }}
  {% endif %}
  {% if message.role == 'user' %}
    {{- bos_token + '[INST] ' + (system if loop.first else '') + message.content | trim + ' [/INST]' -}}
  {% elif message.role == 'assistant' %}
    {{- ' ' + message.content | trim + ' ' + eos_token -}}
  {% endif %}
{% endfor %}
""",
    "llama3": """
{%- set ns = namespace(first=true) -%}
{%- for message in messages -%}
  {%- set text = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' -%}
  {%- if ns.first -%}{%- set text = bos_token + text -%}{%- set ns.first = false -%}{%- endif -%}
  {{ text }}
{%- endfor -%}
{%- if add_generation_prompt is defined and add_generation_prompt -%}
  {{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif -%}
""",
    "llama32": """
{{- bos_token }}
{%- if custom_tools is defined %}{%- set tools = custom_tools %}{%- endif %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}{{- "Environment: ipython\\n" }}{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif message.content is mapping or message.content is iterable %}
        {{- message.content | tojson }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}
""",
    "mistral": """
{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace(index=0) %}
{%- for message in loop_messages %}
    {%- if message["role"] in ("user", "assistant") and not message.get("tool_calls") %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("After the optional system message, roles must alternate") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- else %}
        {{- raise_exception("only user and assistant roles are known, not " ~ message.role) }}
    {%- endif %}
{%- endfor %}
{{- " (" ~ user_messages|length ~ ")" }}
""",
    "vicuna": """
{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] | trim }}{% set loop_messages = messages[1:] %}{% else %}A chat between a curious user and an assistant.{% set loop_messages = messages %}{% endif %}
{% for message in loop_messages %}
{{ ' ' if loop.first else '' }}{{ message.role | upper if message.role in ['user', 'assistant'] else message.role | title }}: {{ message.content }}{{ eos_token if message.role == 'assistant' else ' ' }}
{% endfor %}
{% if add_generation_prompt %}ASSISTANT:{% endif %}
""",
    "qwen25": """
{%- macro opening(role) %}<|im_start|>{{ role }}{{ '\\n' }}{% endmacro %}
{%- if tools %}
    {{- opening('system') }}
    {{- messages[0].content if messages[0].role == 'system' else 'You are a helpful assistant.' }}
    {{- "\\n\\n# Tools\\n<tools>" }}
    {%- for tool in tools %}{{- "\\n" }}{{- tool | tojson }}{%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- elif messages[0].role == 'system' %}
    {{- opening('system') + messages[0]['content'] + '<|im_end|>\\n' }}
{%- else %}
    {{- opening('system') + 'You are a helpful assistant.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- opening(message.role) + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- for tool_call in message.tool_calls %}{{- tool_call.arguments | tojson }}{%- endfor %}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<tool_response>\\n' }}{{- message.content }}{{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- opening('assistant') }}{%- endif %}
""",
    "qwen3": """
{%- set ns = namespace(multi_step=true, last_query=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step = false %}
        {%- set ns.last_query = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if message.role == "assistant" %}
        {%- set reasoning = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query and (loop.last or (not loop.last and reasoning)) %}
            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + content }}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}
""",
    "zephyr": """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\\n'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}""",
    "gemma": """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role here') }}{% endif %}
{%- for message in messages %}
{%- if message['role'] == 'assistant' %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}
{{- '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}
{%- endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}""",
    "phi3": """{% for message in messages %}{% if message.role in ['system', 'user', 'assistant'] %}{{'<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n'}}{% else %}{% continue %}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}""",
    "alpaca": """{# instruction style, with a block set and generation marks #}
{%- set header %}Below is an instruction.{{ ' ' }}Answer it.{% endset -%}
{{ header }}

{% for message in messages if message.role != 'system' %}
{% if message.role == 'user' %}
### Instruction {{ loop.index }}/{{ loop.length }}:
{{ message.content | trim | replace('\\r\\n', '\\n') | indent(2) }}

{% else %}
### Response:
{% generation %}{{ message.content }}{{ eos_token }}{% endgeneration %}


{% endif %}
{% else %}
(nothing was said)
{% endfor %}
{% if add_generation_prompt %}
### Response:
{% endif %}""",
}

CONVERSATIONS = {
    "plain": [("user", "Hi there")],
    "system": [("system", "  You are terse. "), ("user", "What is 2+2?\n"), ("assistant", " 4 "), ("user", "And 3+3?  ")],
    "turns": [("user", "Tell me\r\na \"story\" \\ 'now'"), ("assistant", "<think>\nhmm\n</think>\n\nOnce upon a time…"),
              ("user", "日本語 😀 {{ not a tag }}"), ("assistant", "")],
    "odd": [("assistant", "I speak first"), ("tool", "result"), ("tool", "more"), ("user", "ok")],
    "empty": [],
}

SNIPPETS = r"""
a{% if true %}  b  {% endif %}c
a {%- if true -%}  b  {%- endif -%} c
  {% if true %}\n  x\n  {% endif %}\n  y
\n  {%+ if true +%}\n  x\n  {%- endif %}\n  y\n
{# c #}\nx{#- d -#}  y {# e #} z\n\n
  {{ 1 }}  \n  {{- 2 }}\n {{ 3 -}}  \n x
{% raw %}{{ x }} {% if %}{% endraw %}\n end
 {%- raw -%}  {{ x }}  {%- endraw -%}  end
{{ 'a' 'b' "c\n\x41\u00e9\\\'" }}
{{ 1 + 2 * 3 - 4 / 2 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 2 ** 3 ** 2 }} {{ -2 ** 2 }}
{{ 1.5 }} {{ 2.0 }} {{ 1e20 }} {{ 1e-7 }} {{ 0.1 + 0.2 }} {{ 100000.0 * 1000 }} {{ 1e16 }} {{ 123456789.125 }} {{ 7 / 2 }}
{{ 'x' ~ 1 ~ none ~ true ~ [1, 'a', "it's"] ~ {'k': 1.0} }}
{{ 'ab' * 3 }} {{ [1] + [2, 'x'] }} {{ 'a' + 'b' }} {{ 3 * 'ab' }}
{{ 1 < 2 <= 2 > 1 }} {{ 'a' < 'b' }} {{ 1 == 1.0 }} {{ 'a' != 'b' }} {{ 1 == '1' }} {{ true == 1 }}
{{ 'b' in 'abc' }} {{ 1 in [1, 2] }} {{ 'x' not in 'abc' }} {{ 'k' in {'k': 1} }} {{ not true }} {{ not 1 in [2] }}
{{ 1 and 0 or 'z' }} {{ '' or 'd' }} {{ none and x }} {{ 'a' if 1 > 2 else 'b' }} {{ 'a' if false }}|
{{ x }}|{{ x is defined }}|{{ x | default('d') }}|{{ '' | default('e', true) }}|{{ none | d('n') }}|{{ 0 | default(5, boolean=true) }}
{{ x.y }}
{{ messages.foo.bar }}
{{ messages[0].nope is defined }} {{ messages[0]['role'] }} {{ messages[99] is defined }} {{ messages[-1].content }}
{{ x + 1 }}
{{ 'a' + 1 }}
{{ 1 < 'a' }}
{{ 1 / 0 }}
{{ 'abcdef'[1:4] }} {{ 'abcdef'[::-1] }} {{ 'abc'[-1] }} {{ [1,2,3,4][1:] }} {{ [1,2,3,4][:-1] }} {{ [1,2,3,4][::2] }} {{ 'añ日😀z'[1:4] }} {{ 'abc'[5:] }}|{{ [1,2,3][-9:2] }} {{ [1,2,3][2:0:-1] }}
{% for i in range(3) %}{{ i }}{% if not loop.last %}, {% endif %}{% endfor %} {{ range(5, 0, -2) | list }} {{ range(2,4)|join('-') }}
{% for c in 'añ😀' %}[{{ c }}]{% endfor %}{% for k in {'a': 1, 'b': 2} %}{{ k }}{% endfor %}{% for x in nothing %}x{% else %}none{% endfor %}
{% for k, v in {'a': 1, 'b': [2]}.items() %}{{ k }}={{ v }};{% endfor %}{% for k, v in {'z': 1, 'B': 2, 'a': 3}|dictsort %}{{ k }}{{ v }}{% endfor %}
{% for i in [1,2,3,4,5] if i % 2 == 1 %}{{ loop.index }}:{{ i }}:{{ loop.revindex }}:{{ loop.first }}:{{ loop.previtem }}:{{ loop.nextitem }} {% endfor %}
{% for i in [1,2,3,4,5] %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 4 %}{% break %}{% endif %}{{ i }}{% endfor %}
{% for i in [1,2] %}{% for j in 'ab' %}{{ loop.depth }}{{ loop.cycle('x', 'y') }}{{ i }}{{ j }} {% endfor %}{% endfor %}
{% set x = 1 %}{% for i in [1,2] %}{{ x }}{% set x = i + 10 %}{{ x }}{% endfor %}{{ x }}
{% if true %}{% set y = 5 %}{% endif %}{{ y }}
{% set ns = namespace(n=0, s='') %}{% for i in range(4) %}{% set ns.n = ns.n + i %}{% set ns.s = ns.s ~ i %}{% endfor %}{{ ns.n }} {{ ns.s }} {{ ns.nope is defined }}
{% set a, b = [1, 2] %}{{ a }}{{ b }}{% set (c) = 3 %}
{% set d = {'a': 1} %}{% set d.a = 2 %}
{% macro m(a, b='B', c=none) %}<{{ a }}{{ b }}{{ c }}>{% endmacro %}{{ m(1) }}{{ m(1, 2) }}{{ m(1, c=3) }}{{ m(b=1, a=2) }}{{ m() }}
{% macro fact(n) %}{% if n > 1 %}{{ n }}*{{ fact(n - 1) }}{% else %}1{% endif %}{% endmacro %}{{ fact(5) }}
{% macro m(a) %}{{ outer }}{{ inner }}{% endmacro %}{% set outer = 'o' %}{% for inner in [1] %}{{ m(1) }}{% endfor %}
{{ m(1) }}
{% set t %} block {{ 1 + 1 }} {% endset %}[{{ t | trim }}]
{{ '  x y  ' | trim }}|{{ 'xxaxx' | trim('x') }}|{{ 'aBc' | upper }}{{ 'ÄÖß' | lower }}|{{ 'hello wORLD-foo' | title }}|{{ 'hELLO' | capitalize }}
{{ [1,2,3] | length }} {{ 'añ😀' | length }} {{ {'a':1} | count }} {{ [1,2,3] | first }} {{ 'abc' | last }} {{ [3,1,2] | sort }} {{ ['b','A','c'] | sort }} {{ [1,2,3] | sum }} {{ [3,1,2] | max }} {{ [3,1,2] | min }}
{{ [1,2,3] | join(', ') }} {{ ['a', 1, none] | join }} {{ messages | map(attribute='role') | join(',') }} {{ ['a','b'] | map('upper') | list }} {{ [1,2,2,1] | unique | list }} {{ 'abc' | reverse }} {{ [1,2] | reverse | list }}
{{ messages | selectattr('role', 'equalto', 'user') | list | length }} {{ messages | rejectattr('role', 'in', ['user']) | map(attribute='content') | list }} {{ [0,1,2,''] | select | list }} {{ [1,2,3,4] | reject('odd') | list }}
{{ {'a': [1, 2.5, none, true], 'b': {'c': 'é"\n<>&\''}} | tojson }} {{ [] | tojson }} {{ {} | tojson }} {{ 'x' | tojson }}
{{ {'a': [1, {'b': 2}], 'c': []} | tojson(indent=2) }}
{{ 'a-b-c' | replace('-', '+') }} {{ 'aaa' | replace('a', 'b', 2) }} {{ 42 | string }} {{ '42' | int + 1 }} {{ 'x' | int }} {{ 'x' | int(7) }} {{ 3.9 | int }} {{ '3.5' | float }} {{ -5 | abs }} {{ (-5) | abs }}
{{ 'a\nb\n\nc' | indent }}|{{ 'a\nb' | indent(2, true) }}|{{ '<a href="x">' | escape }}|{{ '<b>' | safe }}
{{ ' a b  c '.split() }} {{ 'a,b,,c'.split(',') }} {{ 'a,b,c'.split(',', 1) }} {{ 'a,b,c'.rsplit(',', 1) }} {{ ' x '.strip() }}|{{ 'xxaxx'.lstrip('x') }}|{{ 'xxaxx'.rstrip('x') }}|{{ 'a\nb\r\nc'.splitlines() }}
{{ 'abc'.startswith('ab') }} {{ 'abc'.endswith(('x', 'c')) }} {{ 'aBc'.upper() }} {{ 'aBc'.lower() }} {{ "it's a dog".title() }} {{ 'abc'.capitalize() }} {{ 'aXbX'.replace('X', '') }} {{ 'abc'.find('c') }} {{ 'abcabc'.count('bc') }} {{ '-'.join(['a', 'b']) }} {{ '12'.isdigit() }}
{{ {'a': 1}.get('a') }} {{ {'a': 1}.get('b') }} {{ {'a': 1}.get('b', 'd') }} {{ {'a': 1}.keys() | list }} {{ {'a': 1}.values() | list }} {{ dict(a=1, b='x') }}
{{ 1 is number }} {{ 'a' is string }} {{ none is none }} {{ {} is mapping }} {{ [] is iterable }} {{ 'a' is sequence }} {{ 1 is odd }} {{ 2 is even }} {{ 9 is divisibleby 3 }} {{ 9 is divisibleby(2) }} {{ true is boolean }} {{ 1 is boolean }} {{ 1 is integer }} {{ 1.0 is float }} {{ true is true }} {{ 1 is true }} {{ x is undefined }} {{ x is not defined }} {{ 'a' is in 'abc' }} {{ 1 is eq 1 }} {{ 1 is gt 2 }} {{ 'A' is upper }} {{ range is callable }} {{ 3 is not odd }} {{ none is not none or true }}
{{ raise_exception('stop here') }}
{% if false %}{{ raise_exception('never') }}{% endif %}fine
{{ [1, 2
{% if x %}
{% endif %}
{% for x in %}{% endfor %}
{{ 'abc }}
{% foo %}
{{ 1 | nofilter }}
{{ 1 is notest }}
{{ 'a'.nomethod() }}
{{ )( }}
{{ }}
{% set = 1 %}
{{ {'a': {'b': 1}}.a.b }} {{ {'a': 1}['a'] }} {{ {1: 2} | length if false else 'k' }} {{ {'if': 1}['if'] }}
{{ ('a', 'b') | join }} {{ ('a') }} {{ (1,) | length }} {{ () | length }} {{ [1, 2, ] | length }} {{ 1, 2 }}
{{- "a" -}}   {{- "b" -}}
{%- if messages | length > 0 and messages[0].role == 'user' -%} yes {%- elif 1 -%} maybe {%- else -%} no {%- endif -%}
{% if 1 %}{% if 0 %}a{% elif 1 %}b{% else %}c{% endif %}{% else %}d{% endif %}
{{ bos_token }}{{ eos_token }}{{ add_generation_prompt }}{{ tools }}{{ documents }}{{ undefined_thing }}
{{ messages }}
{{ messages[0] | tojson }} {{ messages[0].items() | list }} {{ 'role' in messages[0] }} {{ 'tool_calls' in messages[0] }}
line1\r\nline2\rline3\n
{{ "a" }}\n{{ "b" }}\n{% if true %}\nc\n{% endif %}\n
\t {% if true %}x{% endif %} \t
x  {% if true %}y{% endif %}
{{ 10 | string | length }} {{ -1 | abs }} {{ 'x' | upper | lower }} {{ 'a,b' .split(',')[1] }} {{ [[1, 2], [3]][0][1] }}
{% set x = ['a', 'b'] %}{{ x[0] }}{{ x[-1] }}{{ x | last }}{{ x[1:] | first }}{{ loop is defined }}
{{ ['', 'a'] | select | first }}{{ [] | first is defined }}{{ 'a' if x is defined else 'u' }}{{ not x }}
{{ 5 if true }} {{ (1 if false) is defined }} {{ [1, 2] == [1, 2] }} {{ {'a': 1} == {'a': 1} }} {{ 'a' == none }}
{{ 12 % 5 }}{{ '%' }}{{ "}}" }}{{ '{%' }}{{ {'a': {'b': '}}'}} }}
{{ strftime_now is defined }}
{{ 'é Straß ΑΣ'.upper()[0:3] }}{{ 'x\u00a0' | trim }}|{{ '\u3000y' .strip() }}|{{ 'a\x1cb'.split() }}
""".strip("\n").split("\n")


def unescape(snippet):
    return snippet.replace("\\r", "\r").replace("\\n", "\n").replace("\\t", "\t") if "{{ '" not in snippet else snippet


def render(source, messages, generation, extra):
    try:
        template = _compile_jinja_template(source)
        variables = {k: v for k, v in extra.items() if k != "now"}
        if "now" not in extra:
            template.globals.pop("strftime_now", None)
            template.environment.globals.pop("strftime_now", None)
        return {"output": template.render(messages=messages, tools=None, documents=None, bos_token="<s>", eos_token="</s>",
                                          add_generation_prompt=generation, **variables)}
    except Exception as error:  # whatever it is: ours must fail too
        return {"error": True, "why": f"{type(error).__name__}: {error}"[:120]}


def main():
    cases = []

    def add(name, source, messages, generation=True, extra=None):
        messages = [{"role": r, "content": c} for r, c in messages]
        cases.append({"name": name, "template": source, "messages": messages, "generation": generation,
                      "extra": extra or {}, **render(source, messages, generation, extra or {})})

    for name, source in TEMPLATES.items():
        for which, messages in CONVERSATIONS.items():
            add(f"{name}/{which}", source, messages, generation=which != "turns")
    add("qwen3/not thinking", TEMPLATES["qwen3"], CONVERSATIONS["plain"], extra={"enable_thinking": False})
    add("llama32/dated", TEMPLATES["llama32"], CONVERSATIONS["plain"], extra={"date_string": "1 Jan 2030"})
    for i, snippet in enumerate(SNIPPETS):
        add(f"snippet {i + 1}", unescape(snippet), CONVERSATIONS["system"])
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(cases, ensure_ascii=False, indent=0) + "\n")
    print(len(cases), "cases,", sum("error" in c for c in cases), "of them errors")


if __name__ == "__main__":
    main()
