// SPDX-License-Identifier: Apache-2.0
// A shape by its name is the same model whether a bench opens a device with it or writes a configuration.

#include <filesystem>
#include <string>

#include "bench/shapes.hpp"
#include "model/loader.hpp"
#include "tests/support/catch.hpp"

using namespace spillway;
using namespace spillway::bench;

namespace {

const std::filesystem::path kScratch = std::filesystem::temp_directory_path() / "spillway_test_shapes";

struct Scratch {
  ~Scratch() { std::filesystem::remove_all(kScratch); }
};

}  // namespace

TEST_CASE("shapes: a written configuration loads as the shape that it was written of") {
  const Scratch scratch;
  for (const std::string name : {"llama-7b", "mistral-7b", "llama-3-8b", "smollm2"}) {
    INFO(name);
    const model::ModelSpec shape = shape_of(name);
    const std::filesystem::path directory = kScratch / name;
    REQUIRE(write_config(shape, directory).ok());
    const Result<model::Model> loaded = model::Model::load(directory, model::LoadFormat::kDummy);
    REQUIRE(loaded.ok());
    const model::ModelSpec& spec = loaded->spec();
    CHECK(spec.architecture == shape.architecture);
    CHECK(spec.name == shape.name);
    CHECK(spec.vocab_size == shape.vocab_size);
    CHECK(spec.hidden_size == shape.hidden_size);
    CHECK(spec.embedding_size == shape.embedding_size);
    CHECK(spec.intermediate_size == shape.intermediate_size);
    CHECK(spec.num_layers == shape.num_layers);
    CHECK(spec.num_heads == shape.num_heads);
    CHECK(spec.num_kv_heads == shape.num_kv_heads);
    CHECK(spec.head_dim == shape.head_dim);
    CHECK(spec.max_position == shape.max_position);
    CHECK(spec.norm == shape.norm);
    CHECK(spec.norm_eps == shape.norm_eps);
    CHECK(spec.position == shape.position);
    CHECK(spec.rope.inv_freq == shape.rope.inv_freq);
    CHECK(spec.rope.rotary_dim == shape.rope.rotary_dim);
    CHECK(spec.mlp == shape.mlp);
    CHECK(spec.activation == shape.activation);
    CHECK(spec.attention_scale == shape.attention_scale);
    CHECK(spec.sliding_window == shape.sliding_window);
    CHECK(spec.tied_embeddings == shape.tied_embeddings);
  }
}

TEST_CASE("shapes: mistral-7b and llama-3-8b share a KV head among four queries, llama-7b does not") {
  for (const std::string name : {"mistral-7b", "llama-3-8b"}) {
    const model::ModelSpec spec = shape_of(name);
    CHECK(spec.num_heads == 4 * spec.num_kv_heads);
    CHECK(spec.intermediate_size == 14336);
  }
  CHECK(shape_of("mistral-7b").vocab_size == 32000);
  CHECK(shape_of("llama-3-8b").vocab_size == 128256);
  CHECK(shape_of("llama-7b").num_heads == shape_of("llama-7b").num_kv_heads);
}

TEST_CASE("shapes: an unknown name is answered with those there are") {
  const auto shape = find_shape("mistral");
  REQUIRE_FALSE(shape.ok());
  CHECK(shape.error().code == Errc::kInvalidArgument);
  CHECK(shape.error().message == "no shape 'mistral': llama-7b, mistral-7b, llama-3-8b, smollm2 or opt-1.3b");
}

TEST_CASE("shapes: what is not a Llama's is not written as one") {
  const auto written = write_config(shape_of("opt-1.3b"), kScratch);
  REQUIRE_FALSE(written.ok());
  CHECK(written.error().code == Errc::kUnsupported);
  CHECK_FALSE(std::filesystem::exists(kScratch));
}
