// SPDX-License-Identifier: Apache-2.0
// Prompts in, completions out: one continuously batched job.
//
//   offline_batch MODEL PROMPT...

#include <cstdio>

#include "actors/engine.hpp"

int main(int argc, char** argv) {
  using namespace spillway;
  if (argc < 3) return std::fprintf(stderr, "usage: offline_batch MODEL PROMPT...\n"), 2;
  EngineOptions options;
  options.model = argv[1];
  Result<std::unique_ptr<Engine>> engine = Engine::create(options);
  if (!engine) return std::fprintf(stderr, "%s\n", engine.error().message.c_str()), 1;

  std::vector<GenerationRequest> requests;
  for (int i = 2; i < argc; ++i) {
    GenerationRequest request;
    Result<std::vector<model::TokenId>> prompt = (*engine)->encode(argv[i]);
    if (!prompt) return std::fprintf(stderr, "%s\n", prompt.error().message.c_str()), 1;
    request.prompt = *std::move(prompt);
    request.params.temperature = 0;
    request.params.max_tokens = 32;
    requests.push_back(std::move(request));
  }
  const std::vector<Completion> completions = (*engine)->complete(std::move(requests));

  int status = 0;
  for (std::size_t i = 0; i < completions.size(); ++i) {
    if (completions[i].refused) {
      std::printf("%s: refused: %s\n", argv[i + 2], completions[i].refused->message.c_str());
      status = 1;
      continue;
    }
    for (const CompletedChoice& choice : completions[i].choices) {
      std::printf("%s ->%s\n  (%u prompt tokens, %u out)\n", argv[i + 2], choice.text.c_str(),
                  choice.usage.prompt_tokens, choice.usage.completion_tokens);
    }
  }
  return status;
}
