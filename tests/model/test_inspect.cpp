// SPDX-License-Identifier: Apache-2.0
#include "model/inspect.hpp"

#include <string>

#include "model/json.hpp"
#include "model/loader.hpp"
#include "tests/model/model_files.hpp"
#include "tests/support/catch.hpp"

using namespace spillway;
using namespace spillway::model;
using namespace spillway::model::testing;

namespace {

Model tiny(const TempDir& directory) {
  auto model = Model::load(directory.write("tiny.gguf", tiny_llama_gguf().build()));
  REQUIRE(model.ok());
  return std::move(*model);
}

}  // namespace

TEST_CASE("inspect: KV bytes a token count both halves of every layer and head") {
  ModelSpec spec;
  spec.num_layers = 30;
  spec.num_kv_heads = 3;
  spec.head_dim = 64;
  CHECK(kv_bytes_per_token(spec, KvFormat::kF32) == 2 * 30 * 3 * 64 * 4);
  CHECK(kv_bytes_per_token(spec, KvFormat::kF16) == 2 * 30 * 3 * 64 * 2);
  CHECK(kv_bytes_per_token(spec, KvFormat::kBF16) == 2 * 30 * 3 * 64 * 2);
  CHECK(kv_bytes_per_token(spec, KvFormat::kQ8_0) == 2 * 30 * 3 * 68);
  spec.head_dim = 40;  // a second, partly filled block
  CHECK(kv_bytes_per_token(spec, KvFormat::kQ8_0) == 2 * 30 * 3 * 68);
}

TEST_CASE("inspect: the report adds up") {
  const TempDir directory;
  const Model model = tiny(directory);
  const ModelReport report = inspect(model);
  CHECK(report.format == "GGUF v3");
  CHECK(report.tensors.size() == 11);
  REQUIRE(report.totals.size() == 1);
  CHECK(report.totals[0].bytes == report.weight_bytes);
  CHECK(report.totals[0].parameters == report.parameters);
  REQUIRE(report.fits.size() == 7 * 4);
  const MemoryFit& fit = report.fits[0];
  const KvCost& cost = report.kv_costs[0];
  CHECK(fit.format == cost.format);
  CHECK(fit.weights_fit);
  CHECK(fit.tokens * cost.bytes_per_token <= fit.memory_bytes - report.weight_bytes);
  CHECK((fit.tokens + 1) * cost.bytes_per_token > fit.memory_bytes - report.weight_bytes);
  CHECK(fit.sequences == fit.tokens / 128);
}

TEST_CASE("inspect: the text names the architecture, every tensor and every KV type") {
  const TempDir directory;
  const std::string text = inspect_text(tiny(directory));
  for (const char* part : {"architecture   llama", "blk.0.ffn_down.weight", "[32, 64]", "q8_0", "80 GiB",
                           "context        128"}) {
    CAPTURE(part);
    CHECK(text.find(part) != std::string::npos);
  }
  CHECK(text.back() == '\n');
}

TEST_CASE("inspect: the JSON is one line and says the same") {
  const TempDir directory;
  const std::string text = inspect_json(tiny(directory));
  CHECK(text.find('\n') == std::string::npos);
  const auto document = parse_json(text, "inspect");
  REQUIRE(document.ok());
  const JsonField root(*document, "inspect");
  CHECK(*root["spec"]["architecture"].string() == "llama");
  CHECK(*root["spec"]["hidden_size"].integer(0, 1000) == 32);
  CHECK(*root["kv_bytes_per_token"]["fp16"].integer(0, 1000) == 2 * 2 * 8 * 2);
  CHECK(root["tensors"].size() == 11);
  CHECK(*root["tensors"][0]["name"].string() == "token_embd.weight");
  CHECK(*root["totals"]["F32"]["tensors"].integer(0, 100) == 11);
  CHECK(root["fits"].size() == 28);
}
