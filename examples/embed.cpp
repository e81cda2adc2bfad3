// SPDX-License-Identifier: Apache-2.0
// The engine inside a program: several questions at once, each answer's tokens awaited as they are decoded.
//
//   embed MODEL

#include <cstdio>
#include <string>
#include <vector>

#include "actors/engine.hpp"

namespace {

using namespace spillway;

struct Talk {
  std::string question, answer;
};

/// Runs as an actor beside the engine's own. Both requests are under way before the first token is awaited.
Task<void> ask_all(Session& session, Engine* engine, std::vector<Talk>* talks) {
  std::vector<Stream> streams;
  for (const Talk& talk : *talks) {
    GenerationRequest request;
    Result<std::vector<model::TokenId>> prompt = engine->encode(talk.question);
    if (!prompt) {
      std::fprintf(stderr, "%s\n", prompt.error().message.c_str());
      co_return;
    }
    request.prompt = *std::move(prompt);
    request.params.temperature = 0;
    request.params.max_tokens = 24;
    Result<Stream> stream = co_await session.generate(std::move(request));
    if (!stream) {
      std::fprintf(stderr, "refused: %s\n", stream.error().message.c_str());
      co_return;
    }
    streams.push_back(std::move(*stream));
  }
  for (std::size_t i = 0; i < streams.size(); ++i) {
    while (std::optional<StreamEvent> event = co_await streams[i].next()) {
      if (const auto* delta = std::get_if<ChoiceDelta>(&*event)) (*talks)[i].answer += delta->text;
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return std::fprintf(stderr, "usage: embed MODEL\n"), 2;
  EngineOptions options;
  options.model = argv[1];
  Result<std::unique_ptr<Engine>> engine = Engine::create(options);
  if (!engine) return std::fprintf(stderr, "%s\n", engine.error().message.c_str()), 1;

  std::vector<Talk> talks = {
      {"The capital of France is", ""}, {"Water boils at", ""}, {"Once upon a time", ""}};
  (*engine)->start(&ask_all, engine->get(), &talks).wait();
  for (const Talk& talk : talks) std::printf("%s ->%s\n", talk.question.c_str(), talk.answer.c_str());
}
