// SPDX-License-Identifier: Apache-2.0
#include "cli/values.hpp"

#include "cli/closest_word.hpp"
#include "cli/input.hpp"
#include "cli/options.hpp"
#include "cli/output.hpp"
#include "cli/progress.hpp"
#include "cli/report.hpp"
#include "tests/support/catch.hpp"

using namespace spillway;

TEST_CASE("values: sizes take the usual suffixes") {
  const auto bytes = [](std::string_view text) { return cli::parse_bytes(text).value(); };
  CHECK(bytes("0") == 0);
  CHECK(bytes("4096") == 4096);
  CHECK(bytes("1K") == 1024);
  CHECK(bytes("256MiB") == std::uint64_t{256} << 20);
  CHECK(bytes("256 mib") == std::uint64_t{256} << 20);
  CHECK(bytes("1.5G") == std::uint64_t{1536} << 20);
  CHECK(bytes("2GB") == 2'000'000'000);
  CHECK(bytes("1T") == std::uint64_t{1} << 40);
  for (const std::string_view wrong :
       {"", "M", "-1", "1X", "1MiBs", "1e3", "0x10", "nan", "inf", "99999999T", "1 2"}) {
    INFO(wrong);
    CHECK_FALSE(cli::parse_bytes(wrong).ok());
  }
}

TEST_CASE("values: numbers are whole words in their range") {
  CHECK(cli::parse_integer("-1", -1, 5).value() == -1);
  for (const std::string_view wrong : {"", "6", "-2", "1.0", "1 ", "+1", "99999999999999999999"}) {
    INFO(wrong);
    CHECK_FALSE(cli::parse_integer(wrong, -1, 5).ok());
  }
  CHECK(cli::parse_unsigned("18446744073709551615").value() == ~std::uint64_t{0});
  CHECK_FALSE(cli::parse_unsigned("-1").ok());
  CHECK(cli::parse_real("-0.5").value() == -0.5f);
  for (const std::string_view wrong : {"", "nan", "inf", "1e99", "1,5", "1.5x"}) {
    INFO(wrong);
    CHECK_FALSE(cli::parse_real(wrong).ok());
  }
}

TEST_CASE("values: a sparsification budget is a number of tokens or a share of the prompt") {
  model::SparseKvParams params;
  CHECK(cli::parse_sparse_budget("512", params).ok());
  CHECK(params.budget == 512);
  CHECK(params.budget_fraction == 0);
  CHECK(cli::parse_sparse_budget("0.25", params).ok());
  CHECK(params.budget == 0);
  CHECK(params.budget_fraction == 0.25);
  for (const char* text : {"0", "-5", "1.0", "1.5", "half", "", "12x", "nan", "0.5x"}) {
    CAPTURE(text);
    const Result<void> wrong = cli::parse_sparse_budget(text, params);
    REQUIRE_FALSE(wrong.ok());
    CHECK(wrong.error().message == "'" + std::string(text) +
                                       "' is neither a whole number of tokens, 1 or more, nor a share of the prompt over "
                                       "0 and under 1");
  }
}

TEST_CASE("values: sizes are written as people read them") {
  CHECK(cli::bytes_text(0) == "0 B");
  CHECK(cli::bytes_text(1536) == "1.5 KiB");
  CHECK(cli::bytes_text(std::uint64_t{256} << 20) == "256 MiB");
}

TEST_CASE("closest word: typing errors find their word, other words find none") {
  const std::vector<std::string> known = {"--max-tokens", "--max-num-seqs", "--prompt", "--prompts",
                                          "--seed"};
  CHECK(cli::closest_word("--max-token", known) == "--max-tokens");
  CHECK(cli::closest_word("--promt", known) == "--prompt");
  CHECK(cli::closest_word("--sede", known) == "--seed");
  CHECK(cli::closest_word("--max-num", known) == "--max-num-seqs");
  CHECK(cli::closest_word("--temperature", known).empty());
  CHECK(cli::closest_word(std::string(1000, 'x'), known).empty());
}

TEST_CASE("report: a message is one line whatever it quotes") {
  CHECK(cli::one_line("a\nb\tc\x1b[31m") == "a\\nb\\tc\\x1b[31m");
  CHECK(cli::one_line("\xc3\xa4") == "\xc3\xa4");
}

TEST_CASE("output: a model's text cannot steer the terminal") {
  CHECK(cli::without_controls("a\x1b[2Jb\n\tc\r") == "a\xef\xbf\xbd[2Jb\n\tc\xef\xbf\xbd");
  CHECK(cli::without_controls("\xc2\x9b"
                              "31m") ==
        "\xef\xbf\xbd"
        "31m");  // CSI as one C1 character
  CHECK(cli::without_controls("\xc3\xa4\xc2\xa0\xe2\x82\xac") == "\xc3\xa4\xc2\xa0\xe2\x82\xac");
}

TEST_CASE("input: only the last line end is dropped") {
  CHECK(cli::without_last_line_end("a\n\n") == "a\n");
  CHECK(cli::without_last_line_end("a\r\n") == "a");
  CHECK(cli::without_last_line_end("a") == "a");
}

TEST_CASE("progress bar: how far the weights have come") {
  CHECK(cli::weights_text(6'500'000'000, 13'000'000'000, 60) ==
        "[=================>                ] 6.5/13.0 GB of weights");
  CHECK(cli::weights_text(45'000'000, 90'000'000, 60).find("] 45/90 MB of weights") != std::string::npos);
  CHECK(cli::weights_text(7, 7, 60).find(">") == std::string::npos);
  for (const int columns : {1, 10, 24, 30, 60})
    CHECK(cli::weights_text(1, 3, columns).size() < static_cast<std::size_t>(columns));
}

TEST_CASE("progress: the bar fits its line and tells rate and time left") {
  CHECK(cli::progress_text(0, 10, 0, 0, 60) == "[>                                       ] 0/10");
  const std::string half = cli::progress_text(5, 10, 1000, 10, 60);
  CHECK(half.find("5/10  100 tokens/s  0:10 left") != std::string::npos);
  CHECK(cli::progress_text(10, 10, 1000, 10, 60).find("left") == std::string::npos);
  CHECK(cli::progress_text(1, 1000, 10, 100, 200).find("27:45:00 left") != std::string::npos);
  for (int columns = 1; columns < 100; ++columns) {
    CHECK(cli::progress_text(5, 10, 1000, 10, columns).size() < static_cast<std::size_t>(columns));
  }
}
