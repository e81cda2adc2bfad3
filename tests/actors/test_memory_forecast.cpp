// SPDX-License-Identifier: Apache-2.0
#include "actors/memory_forecast.hpp"

#include <algorithm>

#include "runtime/random.hpp"
#include "tests/support/catch.hpp"

namespace spillway::actors {
namespace {

constexpr std::uint32_t kBlockSize = 4;

/// Step by step, as the course is described.
std::uint32_t blocks_at(const MemoryCourse& course, std::uint32_t step) {
  if (step >= course.steps) return 0;
  if (step < course.prompt_steps) return course.prompt_blocks;
  const std::uint32_t slots = std::min(course.slots_max, course.slots + (step - course.prompt_steps));
  return (slots + kBlockSize - 1) / kBlockSize;
}

std::uint64_t peak_of(const std::vector<MemoryCourse>& courses) {
  std::uint32_t end = 0;
  for (const MemoryCourse& course : courses) end = std::max(end, course.steps);
  std::uint64_t peak = 0;
  for (std::uint32_t step = 0; step < end; ++step) {
    std::uint64_t blocks = 0;
    for (const MemoryCourse& course : courses) blocks += blocks_at(course, step);
    peak = std::max(peak, blocks);
  }
  return peak;
}

std::vector<MemoryCourse> random_courses(std::uint64_t seed, std::size_t count) {
  runtime::Random random(seed);
  std::vector<MemoryCourse> courses(count);
  for (MemoryCourse& course : courses) {
    const auto below = [&random](std::uint64_t n) { return static_cast<std::uint32_t>(random.below(n)); };
    course.prompt_steps = below(3);
    course.slots = 1 + below(40);
    course.slots_max = course.slots + below(60);
    course.prompt_blocks = (course.slots + kBlockSize - 1) / kBlockSize + below(10);
    course.steps = course.prompt_steps + 1 + below(150);
  }
  return courses;
}

TEST_CASE("memory forecast: the peak is the highest step's, of few sequences exactly") {
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    CAPTURE(seed);
    const std::vector<MemoryCourse> courses = random_courses(seed, 1 + seed % 25);
    CHECK(MemoryForecast(courses, kBlockSize).peak() == peak_of(courses));
  }
}

TEST_CASE("memory forecast: of many sequences the peak is never too low and little too high") {
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    CAPTURE(seed);
    const std::vector<MemoryCourse> courses = random_courses(seed, 300);
    const std::uint64_t peak = MemoryForecast(courses, kBlockSize).peak(), right = peak_of(courses);
    CHECK(peak >= right);
    CHECK(static_cast<double>(peak) <= 1.05 * static_cast<double>(right));
  }
}

TEST_CASE("memory forecast: who joins is never counted too low") {
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    CAPTURE(seed);
    std::vector<MemoryCourse> courses = random_courses(seed, 12);
    MemoryForecast forecast(courses, kBlockSize);
    for (const MemoryCourse& more : random_courses(seed + 1000, 4)) {
      courses.push_back(more);
      const std::uint64_t peak = forecast.peak_with(more);
      CHECK(peak >= peak_of(courses));
      forecast.join(more);
      CHECK(forecast.peak() == peak);
    }
  }
}

}  // namespace
}  // namespace spillway::actors
