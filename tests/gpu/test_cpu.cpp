// SPDX-License-Identifier: Apache-2.0
#include "gpu/host/cpu.hpp"

#include "tests/support/catch.hpp"

using namespace spillway;
using namespace spillway::gpu::host;

TEST_CASE("cpu: every target's name parses back to it") {
  for (CpuTarget target : {CpuTarget::kScalar, CpuTarget::kAvx2, CpuTarget::kAvx512Vnni,
                           CpuTarget::kAvx512Bf16, CpuTarget::kAmx}) {
    const Result<CpuTarget> parsed = parse_cpu_target(to_string(target));
    REQUIRE(parsed.ok());
    CHECK(*parsed == target);
  }
}

TEST_CASE("cpu: an unknown target is refused with the choices") {
  const Result<CpuTarget> parsed = parse_cpu_target("avx9000");
  REQUIRE_FALSE(parsed.ok());
  CHECK(parsed.error().code == Errc::kInvalidArgument);
  CHECK(parsed.error().message.find("avx512vnni") != std::string::npos);
}

TEST_CASE("cpu: a cap lowers the target and never raises it") {
  const CpuTarget best = detect_cpu_target();
  CHECK(capped_cpu_target(CpuTarget::kScalar) == CpuTarget::kScalar);
  CHECK(capped_cpu_target(CpuTarget::kAmx) == best);
  const std::vector<CpuTarget> all = available_cpu_targets();
  REQUIRE_FALSE(all.empty());
  CHECK(all.front() == CpuTarget::kScalar);
  CHECK(all.back() == best);
}
