// SPDX-License-Identifier: Apache-2.0
// What a load run sends: lengths, arrival times, datasets and traces.

#include <algorithm>
#include <cmath>
#include <set>

#include "net/load/arrivals.hpp"
#include "net/load/datasets.hpp"
#include "net/load/lengths.hpp"
#include "net/load/trace.hpp"
#include "tests/support/catch.hpp"

using namespace spillway;
using namespace spillway::net;

namespace {

struct Moments {
  double mean = 0, deviation = 0;
};

Moments moments_of(const std::vector<double>& values) {
  Moments moments;
  for (const double value : values) moments.mean += value / static_cast<double>(values.size());
  for (const double value : values)
    moments.deviation += (value - moments.mean) * (value - moments.mean) / static_cast<double>(values.size());
  moments.deviation = std::sqrt(moments.deviation);
  return moments;
}

/// Gaps between arrivals at 10 a second, in units of their mean.
std::vector<double> gaps(double burstiness, std::uint64_t seed) {
  runtime::Random random(seed);
  load::ArrivalOptions options;
  options.rate_per_s = 10;
  options.burstiness = burstiness;
  const std::vector<std::int64_t> times = load::arrival_times(options, 20000, random);
  std::vector<double> result;
  for (std::size_t i = 1; i < times.size(); ++i)
    result.push_back(static_cast<double>(times[i] - times[i - 1]) / 1e8);
  return result;
}

const load::CountTokens kWords = [](std::string_view text) -> Result<std::size_t> {
  return static_cast<std::size_t>(std::count(text.begin(), text.end(), ' ')) + 1;
};

std::string message_of(const auto& result) {
  return result.ok() ? std::string("no error") : result.error().message;
}

}  // namespace

TEST_CASE("arrivals: Gamma gaps have the mean of the rate and the deviation of the burstiness") {
  for (const double burstiness : {0.25, 1.0, 4.0}) {
    const Moments moments = moments_of(gaps(burstiness, 7));
    INFO("burstiness " << burstiness);
    CHECK(moments.mean == Approx(1).epsilon(0.02));
    CHECK(moments.deviation == Approx(1 / std::sqrt(burstiness)).epsilon(0.05));
  }
}

TEST_CASE("arrivals: Poisson gaps are exponential: 1/e of them are longer than the mean") {
  const std::vector<double> values = gaps(1, 3);
  const auto longer =
      static_cast<double>(std::count_if(values.begin(), values.end(), [](double gap) { return gap > 1; }));
  CHECK(longer / static_cast<double>(values.size()) == Approx(std::exp(-1.0)).epsilon(0.03));
}

TEST_CASE("arrivals: the last request is due at count / rate, whatever the seed") {
  for (const std::uint64_t seed : {1, 2, 3}) {
    runtime::Random random(seed);
    load::ArrivalOptions options;
    options.rate_per_s = 50;
    const std::vector<std::int64_t> times = load::arrival_times(options, 100, random);
    CHECK(std::is_sorted(times.begin(), times.end()));
    CHECK(static_cast<double>(times.back()) * 1e-9 == Approx(2.0));
  }
}

TEST_CASE("arrivals: infinite burstiness is a constant gap, an infinite rate is all at once") {
  runtime::Random random(1);
  load::ArrivalOptions options;
  options.rate_per_s = 4;
  options.burstiness = load::kInfinity;
  CHECK(load::arrival_times(options, 3, random) ==
        std::vector<std::int64_t>{250'000'000, 500'000'000, 750'000'000});
  options.rate_per_s = load::kInfinity;
  CHECK(load::arrival_times(options, 3, random) == std::vector<std::int64_t>{0, 0, 0});
  CHECK(load::arrival_times(options, 0, random).empty());
}

TEST_CASE("arrivals: a ramp goes from its first rate to its last") {
  runtime::Random random(1);
  load::ArrivalOptions options;
  options.burstiness = load::kInfinity;
  options.ramp_up = load::RampUp{load::RampUp::Strategy::kLinear, 1, 3};
  const std::vector<std::int64_t> times = load::arrival_times(options, 3, random);
  CHECK(times[0] == 1'000'000'000);
  CHECK(times[1] - times[0] == 500'000'000);
  CHECK(static_cast<double>(times[2] - times[1]) == Approx(1e9 / 3));
  options.ramp_up = load::RampUp{load::RampUp::Strategy::kExponential, 1, 4};
  const std::vector<std::int64_t> steeper = load::arrival_times(options, 3, random);
  CHECK(steeper[1] - steeper[0] == 500'000'000);
  CHECK(steeper[2] - steeper[1] == 250'000'000);
}

TEST_CASE("arrivals: options out of range are refused by name") {
  load::ArrivalOptions options;
  CHECK(load::validate(options).ok());
  options.rate_per_s = 0;
  CHECK(message_of(load::validate(options)).find("--request-rate") == 0);
  options.rate_per_s = 5;
  options.burstiness = -1;
  CHECK(message_of(load::validate(options)).find("--burstiness") == 0);
  options.burstiness = 1;
  options.ramp_up = load::RampUp{load::RampUp::Strategy::kLinear, 1, 2};
  CHECK(message_of(load::validate(options)).find("--ramp-up-strategy") == 0);
}

TEST_CASE("lengths: a quantile table is read linearly between its points") {
  const load::LengthTable table = load::length_table("sharegpt").value();
  CHECK(load::length_at(table.input, 0.10) == 11);
  CHECK(load::length_at(table.input, 0.50) == 96);
  CHECK(load::length_at(table.input, 0.625) == 247);  // halfway from 96 to 397
  CHECK(load::length_at(table.input, 0.99) == 999);
  CHECK(load::length_at(table.input, 1) == 1024);
  CHECK(load::length_at(table.output, 0) == 8);
  CHECK(message_of(load::length_table("alpaca")).find("sharegpt, sharegpt-8k, azure-conv, azure-code") !=
        std::string::npos);
}

TEST_CASE("lengths: a sample keeps the table's median, tail and mean") {
  struct Expected {
    const char* name;
    double input_mean, output_mean;
  };
  // Means as the traces' sources give them.
  for (const Expected& expected :
       {Expected{"sharegpt-8k", 2340, 439}, Expected{"azure-conv", 1155, 211}, Expected{"azure-code", 2048, 28}}) {
    const load::LengthTable table = load::length_table(expected.name).value();
    runtime::Random random(5);
    const std::vector<load::Lengths> lengths = load::draw_lengths(table, 2000, random);
    std::vector<double> inputs, outputs;
    for (const load::Lengths& each : lengths) {
      inputs.push_back(each.input);
      outputs.push_back(each.output);
    }
    INFO(expected.name);
    CHECK(moments_of(inputs).mean == Approx(expected.input_mean).epsilon(0.06));
    CHECK(moments_of(outputs).mean == Approx(expected.output_mean).epsilon(0.06));
    std::sort(inputs.begin(), inputs.end());
    CHECK(inputs[1000] == Approx(load::length_at(table.input, 0.5)).epsilon(0.01));
    CHECK(inputs[1980] == Approx(load::length_at(table.input, 0.99)).epsilon(0.01));
  }
}

TEST_CASE("lengths: prompt and answer together keep under the table's limit") {
  runtime::Random random(9);
  for (const load::Lengths& each : load::draw_lengths(load::length_table("sharegpt").value(), 3000, random)) {
    REQUIRE(each.input >= 1);
    REQUIRE(each.input + each.output <= 1512);
  }
}

TEST_CASE("lengths: uniform ones stay in their range and reach its ends") {
  runtime::Random random(2);
  std::set<std::uint32_t> inputs;
  for (const load::Lengths& each : load::uniform_lengths({100, 10}, 0.1, 5000, random)) {
    inputs.insert(each.input);
    REQUIRE(each.output >= 9);
    REQUIRE(each.output <= 11);
  }
  CHECK(*inputs.begin() == 90);
  CHECK(*inputs.rbegin() == 110);
  for (const load::Lengths& each : load::uniform_lengths({100, 10}, 0, 5, random))
    CHECK(each == load::Lengths{100, 10});
}

TEST_CASE("prompts: ids have the wanted count and range, and a seed gives the same again") {
  const load::PromptSource source = load::PromptSource::of_ids(1000, 1010);
  runtime::Random random(4), same(4);
  const load::Prompt prompt = source.draw(500, random);
  CHECK(prompt == source.draw(500, same));
  CHECK(prompt != source.draw(500, random));
  const auto& ids = std::get<std::vector<model::TokenId>>(prompt);
  CHECK(ids.size() == 500);
  CHECK(*std::min_element(ids.begin(), ids.end()) == 1000);
  CHECK(*std::max_element(ids.begin(), ids.end()) == 1009);
}

TEST_CASE("prompts: text has one word a token") {
  runtime::Random random(4);
  const std::string text = std::get<std::string>(load::PromptSource::of_common_words().draw(50, random));
  CHECK(std::count(text.begin(), text.end(), ' ') == 50);
  CHECK(text.find("  ") == std::string::npos);
}

TEST_CASE("datasets: a shared prefix begins every prompt and counts") {
  runtime::Random random(1);
  const auto requests =
      load::synthetic_requests({{3, 5}, {4, 6}}, 2, load::PromptSource::of_ids(0, 1000), random);
  const auto& first = std::get<std::vector<model::TokenId>>(requests[0].prompt);
  const auto& second = std::get<std::vector<model::TokenId>>(requests[1].prompt);
  CHECK(first.size() == 5);
  CHECK(std::equal(first.begin(), first.begin() + 2, second.begin()));
  CHECK(requests[1].prompt_tokens == 6);
  CHECK(requests[1].output_tokens == 6);
}

TEST_CASE("datasets: ShareGPT's odd and short entries are left out") {
  const std::string text = R"([{"conversations":[{"from":"human","value":"one two three four five"},
    {"from":"gpt","value":"a b c d e f"}]},
    {"conversations":[{"from":"human","value":"only me here now and then"}]}, {"id":"x"}, 7,
    {"conversations":[{"from":"human","value":"too short"},{"from":"gpt","value":"a b c d"}]},
    {"conversations":[{"from":"human","value":"one two three four"},{"from":"gpt","value":"no"}]}])";
  runtime::Random random(1);
  const auto requests = load::sharegpt_requests(text, "f.json", {3, {}, true}, kWords, random);
  REQUIRE(requests.ok());
  REQUIRE(requests->size() == 3);  // the one usable entry, three times
  CHECK(std::get<std::string>((*requests)[0].prompt) == "one two three four five");
  CHECK((*requests)[0].prompt_tokens == 5);
  CHECK((*requests)[0].output_tokens == 6);
  CHECK(message_of(load::sharegpt_requests("[]", "f.json", {}, kWords, random)).find("f.json") == 0);
  CHECK(message_of(load::sharegpt_requests("{}", "f.json", {}, kWords, random)).find("not a list") !=
        std::string::npos);
  CHECK_FALSE(load::sharegpt_requests(R"([{"conversations":)", "f.json", {}, kWords, random).ok());
}

TEST_CASE("datasets: custom lines hold text or token ids, and a bad one is named") {
  runtime::Random random(1);
  const load::FileOptions in_order{3, {}, false};
  const auto requests =
      load::custom_requests("{\"prompt\":\"a b\",\"output_tokens\":7}\n\n{\"prompt\":[1,2,3]}\r\n", "f.jsonl",
                            in_order, kWords, random);
  REQUIRE(requests.ok());
  CHECK((*requests)[0].output_tokens == 7);
  CHECK((*requests)[0].prompt_tokens == 2);
  CHECK((*requests)[1].output_tokens == 256);
  CHECK((*requests)[1].prompt_tokens == 3);
  CHECK(std::get<std::string>((*requests)[2].prompt) == "a b");
  const auto error = [&](std::string_view text) {
    return message_of(load::custom_requests(text, "f.jsonl", in_order, {}, random));
  };
  CHECK(error("{\"prompt\":\"a\"}\n{\"prompt\":5}") ==
        "f.jsonl: line 2: field 'prompt' is neither a text nor a list of token ids");
  CHECK(error("nonsense") == "f.jsonl: line 1: not a JSON object");
  CHECK(error("{\"prompt\":[1,-2]}").find("token ids") != std::string::npos);
  CHECK(error("{\"prompt\":\"a\",\"output_tokens\":0}").find("output_tokens") != std::string::npos);
  CHECK(error(" \n").find("no request") != std::string::npos);
}

TEST_CASE("trace: Mooncake lines give times, lengths and shared blocks") {
  const auto trace = load::parse_trace(
      "{\"timestamp\": 27482, \"input_length\": 10, \"output_length\": 4, \"hash_ids\": [46, 47, 48]}\n"
      "{\"timestamp\": 30535.5, \"input_length\": 7, \"output_length\": 0, \"hash_ids\": [46, 9]}\n",
      "t.jsonl");
  REQUIRE(trace.ok());
  CHECK((*trace)[0].at_ns == 0);
  CHECK((*trace)[1].at_ns == 3'053'500'000);
  CHECK((*trace)[1].lengths == load::Lengths{7, 1});
  const auto requests = load::trace_requests(*trace, 2, 4, 1, load::PromptSource::of_ids(0, 1 << 20));
  const auto& first = std::get<std::vector<model::TokenId>>(requests[0].prompt);
  const auto& second = std::get<std::vector<model::TokenId>>(requests[1].prompt);
  CHECK(requests[1].at_ns == 1'526'750'000);
  CHECK(first.size() == 10);
  CHECK(second.size() == 7);
  CHECK(std::equal(first.begin(), first.begin() + 4, second.begin()));  // block 46
  CHECK(first[4] != second[4]);                                         // 47 and 9
}

TEST_CASE("trace: Azure's CSV gives times across midnight") {
  const auto trace = load::parse_trace(
      "TIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-11-16 23:59:59.9000000,374,44\r\n2023-11-17 "
      "00:00:00.1500000,396,109\r\n",
      "a.csv");
  REQUIRE(trace.ok());
  REQUIRE(trace->size() == 2);
  CHECK((*trace)[1].at_ns == 250'000'000);
  CHECK((*trace)[0].lengths == load::Lengths{374, 44});
}

TEST_CASE("trace: times are sorted and may carry a zone") {
  CHECK(load::parse_timestamp("1970-01-01 00:00:01.5").value() == 1'500'000'000);
  CHECK(load::parse_timestamp("1970-01-01T01:00:00+01:00").value() == 0);
  CHECK(load::parse_timestamp("2024-05-10 00:00:00.009930+00:00").value() == 1715299200009930000);
  for (const std::string_view wrong :
       {"", "2023", "2023-13-01 00:00:00", "2023-11-16 25:00:00", "2023-02-30 00:00:00",
        "2023-11-16 18:15:46 tomorrow", "-023-11-16 18:15:46"}) {
    INFO(wrong);
    CHECK_FALSE(load::parse_timestamp(wrong).ok());
  }
  const auto trace = load::parse_trace(
      "{\"timestamp\":9,\"input_length\":1,\"output_length\":1}\n"
      "{\"timestamp\":5,\"input_length\":2,\"output_length\":1}",
      "t");
  CHECK(trace.value()[0].lengths.input == 2);
}

TEST_CASE("trace: a bad line is named, whatever its fault") {
  const auto error = [](std::string_view text) { return message_of(load::parse_trace(text, "t")); };
  CHECK(error("").find("no request") != std::string::npos);
  CHECK(error("{\"timestamp\":1}").find("t: line 1: field 'input_length'") == 0);
  CHECK(error("{\"timestamp\":-1,\"input_length\":1,\"output_length\":1}").find("timestamp") !=
        std::string::npos);
  CHECK(error("{\"timestamp\":1,\"input_length\":1e99,\"output_length\":1}").find("input_length") !=
        std::string::npos);
  CHECK(error("{\"timestamp\":1,\"input_length\":1,\"output_length\":1,\"hash_ids\":[\"a\"]}")
            .find("hash_ids") != std::string::npos);
  CHECK(error("TIMESTAMP,Tokens").find("header") != std::string::npos);
  CHECK(error("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,5").find("t: line 2") == 0);
  CHECK(error("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,5,x").find("'x'") !=
        std::string::npos);
  CHECK(error("TIMESTAMP,ContextTokens,GeneratedTokens\nyesterday,5,6").find("'yesterday'") !=
        std::string::npos);
}
