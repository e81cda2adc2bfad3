// SPDX-License-Identifier: Apache-2.0
// What `spillway bench` reads from its command line and shows while it runs.

#include <cmath>

#include "cli/bench_report.hpp"
#include "cli/live_view.hpp"
#include "cli/values.hpp"
#include "tests/support/catch.hpp"

using namespace spillway;

TEST_CASE("bench: goodput limits are pairs of a metric and milliseconds") {
  const auto goodput = cli::parse_goodput({"ttft:200", "tpot:50.5"});
  REQUIRE(goodput.ok());
  CHECK(goodput->ttft_ms == 200);
  CHECK(goodput->tpot_ms == 50.5);
  CHECK_FALSE(goodput->e2el_ms.has_value());
  CHECK_FALSE(cli::parse_goodput({}).value().asked());
  for (const char* wrong : {"ttft", "ttft:", "ttft:x", "itl:5", ":5", "ttft:-1"}) {
    INFO(wrong);
    const auto refused = cli::parse_goodput({wrong});
    REQUIRE_FALSE(refused.ok());
    CHECK(refused.error().message.find("--goodput: ") == 0);
  }
}

TEST_CASE("bench: lists of percentiles and metrics are checked") {
  CHECK(cli::parse_percentiles("50,90,99.9").value() == std::vector<double>{50, 90, 99.9});
  CHECK_FALSE(cli::parse_percentiles("50,,90").ok());
  CHECK_FALSE(cli::parse_percentiles("101").ok());
  CHECK(cli::parse_metrics("itl,e2el").value() == std::vector<std::string>{"itl", "e2el"});
  CHECK_FALSE(cli::parse_metrics("ttft,speed").ok());
  cli::ReportFiles files;
  CHECK(cli::validate(files).ok());
  files.metadata = {"novalue"};
  CHECK_FALSE(cli::validate(files).ok());
}

TEST_CASE("bench: decimals keep to their range, and inf to where it means something") {
  CHECK(cli::parse_decimal("2.5", 0, 10).value() == 2.5);
  CHECK(std::isinf(cli::parse_decimal("inf", 0, HUGE_VAL).value()));
  for (const char* wrong : {"", "x", "11", "-1", "inf", "nan", "1 "}) {
    INFO(wrong);
    CHECK_FALSE(cli::parse_decimal(wrong, 0, 10).ok());
  }
}

TEST_CASE("bench: a result's file is named after the run and stays in its folder") {
  cli::ReportFiles files;
  files.directory = "out";
  net::load::RunLabel label;
  label.backend = "openai";
  label.model = "org/model";
  label.request_rate = 4;
  label.max_concurrency = 8;
  label.date = "20261124-120000";
  CHECK(cli::result_path(files, label) == "out/openai-4qps-concurrency8-model-20261124-120000.json");
  label.label = "../up";
  CHECK(cli::result_path(files, label).parent_path() == "out");
  files.file = "mine.json";
  CHECK(cli::result_path(files, label) == "out/mine.json");
}

TEST_CASE("live view: every line fits the terminal") {
  cli::LiveFigures figures;
  figures.elapsed_s = 75;
  figures.total = 100000;
  figures.sent = 60000;
  figures.done = 50000;
  figures.in_flight = 10000;
  figures.requests_per_s = 1999.9;
  for (int i = 0; i < 100; ++i) figures.tokens_per_s_history.push_back(i * 100.0);
  for (const int columns : {30, 80, 200}) {
    const std::string text = cli::live_text(figures, columns, false);
    int width = 0, lines = 1;
    for (const char c : text) {
      if (c == '\n') {
        ++lines;
        width = 0;
      } else if ((static_cast<unsigned char>(c) & 0xc0) != 0x80) {  // not inside a character
        ++width;
      }
      REQUIRE(width < columns);
    }
    CHECK(lines == 4);
  }
  CHECK(cli::live_text(figures, 80, false).find("50000/100000") != std::string::npos);
}
