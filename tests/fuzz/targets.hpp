// SPDX-License-Identifier: Apache-2.0
#pragma once

// One function a format: reads arbitrary bytes as that format and uses what comes out. It may fail, never
// crash. libFuzzer drives them through fuzz_main.cpp; test_replay.cpp runs the committed corpus through them.

#include <cstddef>
#include <span>

namespace spillway::fuzz {

using Input = std::span<const std::byte>;

void gguf(Input input);
void safetensors(Input input);
void config(Input input);
void tokenizer(Input input);
void chat_template(Input input);
void api_request(Input input);
void websocket(Input input);

}  // namespace spillway::fuzz
