// SPDX-License-Identifier: Apache-2.0
#include "model/inspect.hpp"

#include <algorithm>
#include <array>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <cstdio>

#include "model/gguf.hpp"
#include "model/loader.hpp"
#include "model/quote.hpp"

namespace spillway::model {
namespace {

namespace json = boost::json;

constexpr std::size_t kPathBytesMax = 4096;
constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;
constexpr std::array kMemorySizes = {256 * kMiB, 1 * kGiB,  4 * kGiB, 8 * kGiB,
                                     16 * kGiB,  24 * kGiB, 80 * kGiB};
constexpr std::array kKvFormats = {KvFormat::kF32, KvFormat::kF16, KvFormat::kBF16, KvFormat::kQ8_0};

std::string_view to_string(NormKind kind) { return kind == NormKind::kRms ? "rms" : "layer"; }
std::string_view to_string(NormPlace place) { return place == NormPlace::kPre ? "pre" : "post"; }
std::string_view to_string(PositionKind kind) { return kind == PositionKind::kRotary ? "rotary" : "learned"; }
std::string_view to_string(MlpKind kind) { return kind == MlpKind::kGated ? "gated" : "plain"; }
std::string_view to_string(Activation activation) {
  switch (activation) {
    case Activation::kSilu: return "silu";
    case Activation::kRelu: return "relu";
    case Activation::kGelu: return "gelu";
    case Activation::kGeluTanh: return "gelu_tanh";
  }
  return "?";
}

/// "92.1 MiB"
std::string size_text(std::uint64_t bytes) {
  static constexpr std::array kUnits = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  auto value = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (value >= 1024 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  char text[48];
  std::snprintf(
      text, sizeof text,
      unit == 0 || value == static_cast<double>(static_cast<std::uint64_t>(value)) ? "%.0f %s" : "%.1f %s",
      value, kUnits[unit]);
  return text;
}

/// "134.5 M"
std::string count_text(std::uint64_t count) {
  static constexpr std::array kUnits = {"", " K", " M", " B", " T"};
  auto value = static_cast<double>(count);
  std::size_t unit = 0;
  while (value >= 1000 && unit + 1 < kUnits.size()) {
    value /= 1000;
    ++unit;
  }
  char text[48];
  std::snprintf(text, sizeof text, unit == 0 ? "%.0f%s" : "%.1f%s", value, kUnits[unit]);
  return text;
}

/// Rows of cells, columns padded to their widest; a column is right-aligned where `right` says so.
std::string table(const std::vector<std::vector<std::string>>& rows, const std::vector<bool>& right) {
  std::vector<std::size_t> widths(right.size(), 0);
  for (const auto& row : rows) {
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string out;
  for (const auto& row : rows) {
    std::string line = " ";
    for (std::size_t i = 0; i < row.size(); ++i) {
      const std::string padding(widths[i] - row[i].size(), ' ');
      line.append(" ").append(right[i] ? padding : row[i]).append(right[i] ? row[i] : padding).append(" ");
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out.append(line).append("\n");
  }
  return out;
}

std::vector<TypeTotal> totals_by_type(const std::vector<const TensorView*>& tensors) {
  std::vector<TypeTotal> out;
  for (const TensorView* tensor : tensors) {
    auto found = std::ranges::find(out, tensor->dtype, &TypeTotal::dtype);
    if (found == out.end()) found = out.insert(out.end(), TypeTotal{.dtype = tensor->dtype});
    ++found->tensors;
    found->parameters += tensor->rows() * tensor->cols();
    found->bytes += tensor->data.size();
  }
  std::ranges::sort(out, std::greater<>(), &TypeTotal::bytes);
  return out;
}

std::string spec_text(const ModelReport& report) {
  const ModelSpec& spec = report.spec;
  const auto number = [](auto value) { return std::to_string(value); };
  std::string positions(to_string(spec.position));
  if (spec.position == PositionKind::kRotary) {
    positions.append(", ").append(number(spec.rope.rotary_dim)).append(" dimensions");
    if (spec.rope.interleaved) positions += ", interleaved";
  } else {
    positions.append(", offset ").append(number(spec.position_offset));
  }
  char eps[32];
  std::snprintf(eps, sizeof eps, "%g", static_cast<double>(spec.norm_eps));
  std::string eos;
  for (const TokenId id : report.eos_ids) eos.append(eos.empty() ? "" : " ").append(number(id));
  std::vector<std::vector<std::string>> rows = {
      {"file", printable(report.path, kPathBytesMax)},
      {"format", report.format},
      {"architecture", spec.architecture},
      {"name", printable(spec.name)},
      {"parameters", count_text(report.parameters) + " (" + number(report.parameters) + ")"},
      {"weights",
       size_text(report.weight_bytes) + ", mostly " + std::string(model::to_string(report.dominant_dtype))},
      {"layers", number(spec.num_layers)},
      {"hidden size", number(spec.hidden_size)},
      {"MLP", std::string(to_string(spec.mlp)) + ", " + std::string(to_string(spec.activation)) + ", " +
                  number(spec.intermediate_size)},
      {"attention", number(spec.num_heads) + " heads of " + number(spec.head_dim) + ", " +
                        number(spec.num_kv_heads) + " for keys and values"},
      {"norm",
       std::string(to_string(spec.norm)) + ", " + std::string(to_string(spec.norm_place)) + ", eps " + eps},
      {"positions", positions},
      {"context", number(spec.max_position) + " tokens"},
      {"vocabulary", number(spec.vocab_size) + (spec.tied_embeddings ? ", tied embeddings" : "")},
      {"end tokens", eos.empty() ? "none" : eos},
      {"chat template", report.has_chat_template ? "yes" : "no"},
  };
  if (spec.embedding_size != spec.hidden_size)
    rows.push_back({"embedding size", number(spec.embedding_size)});
  if (spec.sliding_window != 0) rows.push_back({"sliding window", number(spec.sliding_window) + " tokens"});
  return table(rows, {false, false});
}

std::string fits_text(const ModelReport& report) {
  std::vector<std::vector<std::string>> rows;
  rows.push_back({"memory"});
  std::vector<bool> right = {true};
  for (const KvFormat format : kKvFormats) {
    rows[0].push_back(std::string(model::to_string(format)) + " tokens");
    rows[0].push_back("sequences");
    right.insert(right.end(), {true, true});
  }
  for (std::size_t i = 0; i < report.fits.size(); i += kKvFormats.size()) {
    std::vector<std::string> row = {size_text(report.fits[i].memory_bytes)};
    if (!report.fits[i].weights_fit) {
      row.push_back("too small");
    } else {
      for (std::size_t j = 0; j < kKvFormats.size(); ++j) {
        row.push_back(std::to_string(report.fits[i + j].tokens));
        row.push_back(std::to_string(report.fits[i + j].sequences));
      }
    }
    rows.push_back(std::move(row));
  }
  return table(rows, right);
}

json::object spec_json(const ModelSpec& spec) {
  return {{"architecture", spec.architecture},
          {"name", printable(spec.name)},
          {"vocab_size", spec.vocab_size},
          {"hidden_size", spec.hidden_size},
          {"embedding_size", spec.embedding_size},
          {"intermediate_size", spec.intermediate_size},
          {"num_layers", spec.num_layers},
          {"num_heads", spec.num_heads},
          {"num_kv_heads", spec.num_kv_heads},
          {"head_dim", spec.head_dim},
          {"max_position", spec.max_position},
          {"norm", to_string(spec.norm)},
          {"norm_place", to_string(spec.norm_place)},
          {"norm_eps", spec.norm_eps},
          {"position", to_string(spec.position)},
          {"rotary_dim", spec.rope.rotary_dim},
          {"mlp", to_string(spec.mlp)},
          {"activation", to_string(spec.activation)},
          {"sliding_window", spec.sliding_window},
          {"tied_embeddings", spec.tied_embeddings}};
}

}  // namespace

std::string_view to_string(KvFormat format) noexcept {
  switch (format) {
    case KvFormat::kF32: return "fp32";
    case KvFormat::kF16: return "fp16";
    case KvFormat::kBF16: return "bf16";
    case KvFormat::kQ8_0: return "q8_0";
  }
  return "?";
}

std::uint64_t kv_bytes_per_token(const ModelSpec& spec, KvFormat format) noexcept {
  const auto head_dim = static_cast<std::uint64_t>(spec.head_dim);
  std::uint64_t head_bytes = head_dim * 2;
  if (format == KvFormat::kF32) head_bytes = head_dim * 4;
  if (format == KvFormat::kQ8_0) head_bytes = (head_dim + 31) / 32 * 34;
  return 2 * head_bytes * static_cast<std::uint64_t>(spec.num_kv_heads) *
         static_cast<std::uint64_t>(spec.num_layers);
}

ModelReport inspect(const Model& model) {
  ModelReport out;
  out.path = model.path().string();
  out.format = model.gguf() != nullptr ? "GGUF v" + std::to_string(model.gguf()->version()) : "safetensors";
  out.spec = model.spec();
  out.dominant_dtype = model.dominant_dtype();
  out.parameters = model.parameter_count();
  out.weight_bytes = model.weight_bytes();
  out.eos_ids.assign(model.eos_ids().begin(), model.eos_ids().end());
  out.has_chat_template = model.chat_template().has_value();
  out.tensors = model.tensors();
  out.totals = totals_by_type(out.tensors);
  for (const KvFormat format : kKvFormats) {
    const std::uint64_t bytes = kv_bytes_per_token(out.spec, format);
    out.kv_costs.push_back({format, bytes, bytes * static_cast<std::uint64_t>(out.spec.max_position)});
  }
  for (const std::uint64_t memory : kMemorySizes) {
    const bool fits = memory >= out.weight_bytes;
    const std::uint64_t left = fits ? memory - out.weight_bytes : 0;
    for (const KvCost& cost : out.kv_costs) {
      out.fits.push_back(
          {memory, fits, cost.format, left / cost.bytes_per_token, left / cost.bytes_per_sequence});
    }
  }
  return out;
}

std::string inspect_text(const Model& model) {
  const ModelReport report = inspect(model);
  std::string out = spec_text(report);

  std::vector<std::vector<std::string>> rows = {{"type", "tensors", "parameters", "bytes"}};
  for (const TypeTotal& total : report.totals) {
    rows.push_back({std::string(to_string(total.dtype)), std::to_string(total.tensors),
                    count_text(total.parameters), size_text(total.bytes)});
  }
  out.append("\n").append(table(rows, {false, true, true, true}));

  rows = {{"KV cache", "bytes a token", "a sequence of " + std::to_string(report.spec.max_position)}};
  for (const KvCost& cost : report.kv_costs) {
    rows.push_back({std::string(to_string(cost.format)), std::to_string(cost.bytes_per_token),
                    size_text(cost.bytes_per_sequence)});
  }
  out.append("\n").append(table(rows, {false, true, true}));
  out += "\n  What fits beside the weights: tokens, and sequences of " +
         std::to_string(report.spec.max_position) + " tokens, by KV type\n" + fits_text(report);

  rows = {{"tensor", "type", "shape", "bytes"}};
  for (const TensorView* tensor : report.tensors) {
    rows.push_back({tensor->name, std::string(to_string(tensor->dtype)), shape_text(tensor->shape),
                    std::to_string(tensor->data.size())});
  }
  return out.append("\n").append(table(rows, {false, false, false, true}));
}

std::string inspect_json(const Model& model) {
  const ModelReport report = inspect(model);
  json::object out = {{"path", printable(report.path, kPathBytesMax)},
                      {"format", report.format},
                      {"spec", spec_json(report.spec)},
                      {"parameters", report.parameters},
                      {"weight_bytes", report.weight_bytes},
                      {"dominant_dtype", to_string(report.dominant_dtype)},
                      {"eos_token_ids", json::array(report.eos_ids.begin(), report.eos_ids.end())},
                      {"has_chat_template", report.has_chat_template}};
  json::object totals;
  for (const TypeTotal& total : report.totals) {
    totals[to_string(total.dtype)] = {
        {"tensors", total.tensors}, {"parameters", total.parameters}, {"bytes", total.bytes}};
  }
  out["totals"] = std::move(totals);
  json::object costs;
  for (const KvCost& cost : report.kv_costs) costs[to_string(cost.format)] = cost.bytes_per_token;
  out["kv_bytes_per_token"] = std::move(costs);
  json::array fits;
  for (const MemoryFit& fit : report.fits) {
    fits.push_back({{"memory_bytes", fit.memory_bytes},
                    {"weights_fit", fit.weights_fit},
                    {"kv_cache_dtype", to_string(fit.format)},
                    {"tokens", fit.tokens},
                    {"sequences", fit.sequences}});
  }
  out["fits"] = std::move(fits);
  json::array tensors;
  for (const TensorView* tensor : report.tensors) {
    tensors.push_back({{"name", tensor->name},
                       {"type", to_string(tensor->dtype)},
                       {"shape", json::array(tensor->shape.begin(), tensor->shape.end())},
                       {"bytes", tensor->data.size()}});
  }
  out["tensors"] = std::move(tensors);
  return json::serialize(out);
}

}  // namespace spillway::model
