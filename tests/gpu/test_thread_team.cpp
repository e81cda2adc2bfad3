// SPDX-License-Identifier: Apache-2.0
#include "gpu/host/thread_team.hpp"

#include <sched.h>
#include <time.h>

#include <atomic>
#include <vector>

#include "tests/support/catch.hpp"

using namespace spillway::gpu::host;

TEST_CASE("thread team: every member runs once, under its own index") {
  for (std::uint32_t threads : {1u, 2u, 5u}) {
    ThreadTeam team(threads);
    for (int round = 0; round < 100; ++round) {
      std::vector<int> seen(threads, 0);
      team.run([&](TeamMember& member) { ++seen[member.index()]; });
      CHECK(seen == std::vector<int>(threads, 1));
    }
  }
}

TEST_CASE("thread team: what was written before a barrier is read after it") {
  ThreadTeam team(3);
  std::vector<int> value(3, 0);
  std::atomic<bool> all_right{true};
  team.run([&](TeamMember& member) {
    for (int round = 1; round <= 2000; ++round) {
      value[member.index()] = round;
      member.barrier();
      for (int v : value) {
        if (v != round) all_right = false;
      }
      member.barrier();
    }
  });
  CHECK(all_right);
}

TEST_CASE("thread team: each chunk is done exactly once, in loops with and without barriers between") {
  for (std::uint32_t threads : {1u, 2u, 3u}) {
    ThreadTeam team(threads);
    for (std::uint32_t chunks : {0u, 1u, 2u, 7u, 100u}) {
      std::vector<std::vector<std::atomic<int>>> done;
      for (int loop = 0; loop < 30; ++loop) done.emplace_back(chunks);
      team.run([&](TeamMember& member) {
        for (std::size_t loop = 0; loop < done.size(); ++loop) {
          member.for_chunks(chunks, [&](std::uint32_t i) { ++done[loop][i]; });
          if (loop % 10 == 9) member.barrier();
        }
      });
      bool once = true;
      for (auto& loop : done) {
        for (auto& count : loop) once &= count == 1;
      }
      CHECK(once);
    }
  }
}

TEST_CASE("thread team: a member that is held up has its chunks done by the others") {
  ThreadTeam team(2);
  std::atomic<int> by_first{0};
  std::atomic<bool> finished{false};
  team.run([&](TeamMember& member) {
    if (member.index() == 1) {
      while (!finished) sched_yield();  // not one chunk until the other member has done them all
    }
    member.for_chunks(10, [&](std::uint32_t) {
      if (member.index() == 0) ++by_first;
    });
    if (member.index() == 0) finished = true;
  });
  CHECK(by_first == 10);
}

TEST_CASE("thread team: members that went to sleep wake for the next run and the next barrier") {
  ThreadTeam team(3);
  const timespec pause{0, 20'000'000};  // far beyond the spinning time
  std::atomic<int> runs{0};
  for (int round = 0; round < 5; ++round) {
    nanosleep(&pause, nullptr);
    team.run([&](TeamMember& member) {
      if (member.index() == static_cast<std::uint32_t>(round % 3)) nanosleep(&pause, nullptr);
      member.barrier();
      ++runs;
    });
  }
  CHECK(runs == 15);
}

TEST_CASE("thread team: shares cover all items without overlap") {
  for (std::uint32_t threads : {1u, 3u}) {
    ThreadTeam team(threads);
    for (std::uint32_t items : {0u, 1u, 2u, 3u, 17u}) {
      std::vector<std::atomic<int>> count(items);
      team.run([&](TeamMember& member) {
        const auto [begin, end] = member.share(items);
        for (std::uint32_t i = begin; i < end; ++i) ++count[i];
      });
      bool once = true;
      for (auto& c : count) once &= c == 1;
      CHECK(once);
    }
  }
}

TEST_CASE("thread team: teams that are never used end cleanly") {
  for (int i = 0; i < 20; ++i) {
    ThreadTeam team(4);
    CHECK(team.size() == 4);
  }
}
