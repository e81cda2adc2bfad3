// SPDX-License-Identifier: Apache-2.0
#include "net/access.hpp"

#include "net/api_error.hpp"
#include "net/json_text.hpp"
#include "tests/support/catch.hpp"

namespace spillway::net {
namespace {

TEST_CASE("access: keys have numbers, and only whole keys fit") {
  const Access access({"alpha", "beta"}, {});
  CHECK(access.principal("Bearer alpha") == 1u);
  CHECK(access.principal("bearer  beta ") == 2u);
  for (const char* wrong : {"", "Bearer", "Bearer ", "Bearer alph", "Bearer alphaa", "Basic alpha", "alpha"}) {
    CAPTURE(wrong);
    CHECK_FALSE(access.principal(wrong).has_value());
  }
  CHECK(access.principal_of_protocols("realtime, openai-insecure-api-key.beta") == 2u);
  CHECK_FALSE(access.principal_of_protocols("realtime, beta").has_value());
  CHECK(Access({}, {}).principal("") == 0u);
}

TEST_CASE("access: a page may connect to where it came from, if no foreign name can point there") {
  const Access access({}, {"https://app.example"});
  CHECK(access.may_upgrade("", "anything"));
  CHECK(access.may_upgrade("http://127.0.0.1:8000", "127.0.0.1:8000"));
  CHECK(access.may_upgrade("http://[::1]:8000", "[::1]:8000"));
  CHECK(access.may_upgrade("https://app.example", "10.0.0.1"));
  CHECK_FALSE(access.may_upgrade("http://127.0.0.1:9000", "127.0.0.1:8000"));
  CHECK_FALSE(access.may_upgrade("http://rebound.example:8000", "rebound.example:8000"));
  CHECK_FALSE(access.may_upgrade("null", "127.0.0.1:8000"));
  CHECK(access.allows_cors("https://app.example"));
  CHECK_FALSE(access.allows_cors("https://app.example.evil"));
  CHECK(Access({}, {"*"}).allows_cors("https://any.example"));
}

TEST_CASE("errors: every code of the house has a status, and none tells of the server's files") {
  const auto api = [](Errc code) { return to_api_error({code, "/etc/secret: words"}); };
  CHECK(api(Errc::kInvalidArgument).status == 400);
  CHECK(api(Errc::kInvalidArgument).message == "/etc/secret: words");  // the client's own words
  CHECK(api(Errc::kQueueFull).status == 429);
  CHECK(api(Errc::kQueueFull).retry_after_s == 1);
  for (const Errc code : {Errc::kBadFile, Errc::kIo, Errc::kInternal, Errc::kDeviceFailed, Errc::kClosed}) {
    CHECK(api(code).status >= 500);
    CHECK(api(code).message.find("secret") == std::string::npos);
  }
}

TEST_CASE("errors: nested on the socket, plain in a body") {
  const ApiError error = invalid_request("No \"x\".", "x", "bad");
  CHECK(error_body(error) ==
        R"({"error":{"message":"No \"x\".","type":"invalid_request_error","param":"x","code":"bad"}})");
  CHECK(error_event(queue_full(), "lane") ==
        R"({"type":"error","status":429,"stream_id":"lane","error":{"message":"The queue is full; try again later.",)"
        R"("type":"rate_limit_error","param":null,"code":"rate_limit_exceeded","headers":{"retry-after":"1"}}})");
}

TEST_CASE("JSON text: whatever comes in, valid JSON comes out") {
  CHECK(json_string("a\"b\\c\n\t\x01") == R"("a\"b\\c\n\t\u0001")");
  CHECK(json_string("caf\xc3\xa9") == "\"caf\xc3\xa9\"");
  CHECK(json_string("\xff" "a") == "\"\xef\xbf\xbd" "a\"");
  CHECK(json_string("\xc3") == "\"\xef\xbf\xbd\"");
  std::string out;
  append_number(out, 0.1f);
  append_bytes(out, "\xff\n");
  CHECK(out == "0.1[255,10]");
}

}  // namespace
}  // namespace spillway::net
