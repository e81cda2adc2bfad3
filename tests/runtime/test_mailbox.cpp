// SPDX-License-Identifier: Apache-2.0
#include <memory>
#include <set>
#include <thread>

#include "tests/runtime/probe.hpp"
#include "tests/support/catch.hpp"

namespace spillway::runtime {
namespace {

using namespace probe;
using namespace std::chrono_literals;

Address<ProbeMessage> spawn_recorder(Executor& executor, Log* log, std::uint32_t capacity = 1024) {
  return executor.spawn<ProbeMessage>({.name = "recorder", .mailbox_capacity = capacity}, recorder, log);
}

struct Owned {
  std::unique_ptr<int> value;
};

Task<void> collect_owned(ActorContext<Owned>& self, std::vector<int>* out) {
  while (auto message = co_await self.receive()) out->push_back(*message->value);
}

struct Start {};

/// Sends 0..n-1 with send(), which waits for room.
Task<void> waiting_sender(ActorContext<Start>& self, Address<ProbeMessage> to, int from, int count, Log* log) {
  (void)self;
  for (int i = from; i < from + count; ++i) {
    if (co_await to.send(Put{i}) == SendStatus::kDead) {
      log->values.push_back(i);
      co_return;
    }
    ++log->started;
  }
  ++log->ended;
}

/// Another thread fills the mailbox, without its messages arriving yet; then one from here waits for room.
Task<void> sender_behind_a_thread(ActorContext<Start>& self, Address<ProbeMessage> to, Log* log) {
  (void)self;
  std::thread([&] {
    while (to.try_send(Put{100 + log->started}) == SendStatus::kOk) ++log->started;
  }).join();
  log->values.push_back(static_cast<int>(co_await to.send(Put{1})));
  ++log->ended;
}

/// Takes one message each time it is poked from outside.
Task<void> slow_recorder(ActorContext<ProbeMessage>& self, Log* log, Duration pause) {
  while (auto message = co_await self.receive()) {
    if (auto* put = std::get_if<Put>(&*message)) log->values.push_back(put->value);
    co_await self.sleep_for(pause);
  }
}

}  // namespace

TEST_CASE("mailbox: messages of one sender arrive in order, whatever way they were sent") {
  Log log;
  SimExecutor sim(SimOptions{.seed = 1});
  const auto to = spawn_recorder(sim, &log);
  for (int i = 0; i < 100; ++i) {
    if (i % 2 == 0) {
      CHECK(to.try_send(Put{i}) == SendStatus::kOk);
    } else {
      to.post(Put{i});
    }
  }
  sim.run_until_idle();
  CHECK(log.values == range(0, 100));
}

TEST_CASE("mailbox: a full one refuses and leaves the message untouched") {
  std::vector<int> out;
  SimExecutor sim;
  const auto to = sim.spawn<Owned>({.mailbox_capacity = 2}, collect_owned, &out);
  CHECK(to.try_send(Owned{std::make_unique<int>(0)}) == SendStatus::kOk);
  CHECK(to.try_send(Owned{std::make_unique<int>(1)}) == SendStatus::kOk);
  Owned third{std::make_unique<int>(2)};
  CHECK(to.try_send(std::move(third)) == SendStatus::kFull);
  REQUIRE(third.value != nullptr);
  sim.run_until_idle();
  CHECK(to.try_send(std::move(third)) == SendStatus::kOk);
  CHECK(third.value == nullptr);
  sim.run_until_idle();
  CHECK(out == range(0, 3));
}

TEST_CASE("mailbox: room comes back however messages were charged") {
  Log log;
  SimExecutor sim(SimOptions{.seed = 5});
  const auto to = spawn_recorder(sim, &log, 3);
  int next = 0;
  for (int round = 0; round < 50; ++round) {
    int accepted = 0;
    while (to.try_send(Put{next}) == SendStatus::kOk) {
      ++next;
      ++accepted;
    }
    CHECK(accepted == 3);
    sim.run_until_idle();
  }
  CHECK(log.values == range(0, 150));
}

TEST_CASE("mailbox: urgent mail comes before normal mail and is never refused") {
  Log log;
  SimExecutor sim;
  const auto to = spawn_recorder(sim, &log, 1);
  CHECK(to.try_send(Put{1}) == SendStatus::kOk);
  CHECK(to.try_send(Put{2}) == SendStatus::kFull);
  CHECK(to.send_urgent(Put{10}) == SendStatus::kOk);
  CHECK(to.send_urgent(Put{11}) == SendStatus::kOk);
  sim.run_until_idle();
  CHECK(log.values == std::vector<int>{10, 11, 1});
}

TEST_CASE("mailbox: post passes the bound but not the order") {
  Log log;
  SimExecutor sim;
  const auto to = spawn_recorder(sim, &log, 2);
  CHECK(to.try_send(Put{0}) == SendStatus::kOk);
  CHECK(to.try_send(Put{1}) == SendStatus::kOk);
  to.post(Put{2});
  CHECK(to.try_send(Put{99}) == SendStatus::kFull);
  to.post(Put{3});
  sim.run_until_idle();
  CHECK(log.values == range(0, 4));
}

TEST_CASE("mailbox: an ended actor answers kDead, for every way of sending, for ever") {
  Log log;
  int dropped = 0;
  Address<ProbeMessage> to;
  {
    SimExecutor sim;
    to = spawn_recorder(sim, &log);
    CHECK(to.alive());
    to.post(Quit{});
    sim.run_until_idle();
    CHECK(log.ended == 1);
    CHECK_FALSE(to.alive());
    CHECK(to.try_send(Put{1}) == SendStatus::kDead);
    CHECK(to.send_urgent(Put{1}) == SendStatus::kDead);
    to.post(Hold{Token(&dropped)});
    CHECK(dropped == 1);
    // Another actor may get the same place; the old address must not reach it.
    std::vector<Address<ProbeMessage>> others;
    for (int i = 0; i < 200; ++i) others.push_back(spawn_recorder(sim, &log));
    CHECK(to.try_send(Put{1}) == SendStatus::kDead);
    for (const auto& other : others) CHECK(other != to);
  }
  CHECK(to.try_send(Put{1}) == SendStatus::kDead);
  CHECK(Address<ProbeMessage>{}.try_send(Put{1}) == SendStatus::kDead);
}

TEST_CASE("mailbox: mail that an ending actor leaves behind is destroyed") {
  Log log;
  int dropped = 0;
  SimExecutor sim;
  const auto to = spawn_recorder(sim, &log);
  to.post(Quit{});
  for (int i = 0; i < 5; ++i) to.post(Hold{Token(&dropped)});
  (void)to.send_urgent(Put{1});
  sim.run_until_idle();
  CHECK(dropped == 5);
  CHECK(log.values == std::vector<int>{1});
}

TEST_CASE("mailbox: send waits for room and keeps its place") {
  for (const std::uint64_t seed : {1, 2, 3, 4, 5, 6, 7, 8}) {
    Log received;
    Log sent_a;
    Log sent_b;
    SimExecutor sim(SimOptions{.seed = seed});
    const auto to =
        sim.spawn<ProbeMessage>({.name = "slow", .mailbox_capacity = 2}, slow_recorder, &received, Duration(1ms));
    sim.spawn<Start>({.name = "a"}, waiting_sender, to, 0, 50, &sent_a);
    sim.spawn<Start>({.name = "b"}, waiting_sender, to, 1000, 50, &sent_b);
    sim.run_for(5ms);
    CHECK(sent_a.ended + sent_b.ended == 0);  // still waiting: the receiver is slow
    CHECK(sent_a.started + sent_b.started <= 10);
    sim.run_until_idle();
    CHECK(sent_a.ended == 1);
    CHECK(sent_b.ended == 1);
    std::vector<int> from_a;
    std::vector<int> from_b;
    for (const int v : received.values) (v < 1000 ? from_a : from_b).push_back(v);
    CHECK(from_a == range(0, 50));
    CHECK(from_b == range(1000, 1050));
  }
}

TEST_CASE("mailbox: a waiting message that is taken before those that filled the mailbox arrive is acknowledged") {
  for (const std::uint64_t seed : {1, 2, 3, 4}) {
    Log received, sent;
    SimExecutor sim(SimOptions{.seed = seed});
    const auto to = spawn_recorder(sim, &received, 3);
    sim.spawn<Start>({.name = "sender"}, sender_behind_a_thread, to, &sent);
    sim.run_until_idle();
    CHECK(sent.started == 3);
    CHECK(sent.ended == 1);
    CHECK(sent.values == std::vector<int>{static_cast<int>(SendStatus::kOk)});
    CHECK(received.values == std::vector<int>{1, 100, 101, 102});
    for (int i = 0; i < 3; ++i) CHECK(to.try_send(Put{i}) == SendStatus::kOk);  // all room has come back
    CHECK(to.try_send(Put{3}) == SendStatus::kFull);
    sim.run_until_idle();
  }
}

TEST_CASE("mailbox: a post behind waiting senders does not overtake them") {
  Log received;
  Log sent;
  SimExecutor sim;
  const auto to =
      sim.spawn<ProbeMessage>({.name = "slow", .mailbox_capacity = 1}, slow_recorder, &received, Duration(1ms));
  sim.spawn<Start>({.name = "a"}, waiting_sender, to, 0, 3, &sent);
  sim.run_ready();
  REQUIRE(sent.ended == 0);  // one of its messages waits
  CHECK(to.try_send(Put{50}) == SendStatus::kFull);
  to.post(Put{100});
  sim.run_until_idle();
  CHECK(sent.ended == 1);
  const auto place = [&](int v) {
    return std::find(received.values.begin(), received.values.end(), v) - received.values.begin();
  };
  CHECK(received.values.size() == 4);
  CHECK(place(1) < place(100));
}

TEST_CASE("mailbox: who waits for room hears of the receiver's death") {
  Log sent;
  Log log;
  SimExecutor sim;
  const auto to = sim.reserve<ProbeMessage>({.mailbox_capacity = 1});
  sim.spawn<Start>({}, waiting_sender, to, 0, 3, &sent);
  sim.run_until_idle();
  CHECK(sent.started == 1);
  to.post(Quit{});
  (void)to.send_urgent(Quit{});
  sim.start(to, recorder, &log);
  sim.run_until_idle();
  CHECK(sent.values == std::vector<int>{1});
  CHECK_FALSE(to.alive());
}

TEST_CASE("mailbox: mail for a reserved address waits for its actor") {
  Log log;
  SimExecutor sim;
  const auto to = sim.reserve<ProbeMessage>({.name = "late"});
  for (int i = 0; i < 10; ++i) CHECK(to.try_send(Put{i}) == SendStatus::kOk);
  sim.run_until_idle();
  CHECK(log.started == 0);
  sim.start(to, recorder, &log);
  sim.run_until_idle();
  CHECK(log.values == range(0, 10));
}

TEST_CASE("mailbox: try_receive takes all there is without suspending") {
  struct Batches {
    static Task<void> run(ActorContext<ProbeMessage>& self, std::vector<std::size_t>* sizes) {
      while (auto message = co_await self.receive()) {
        std::size_t size = 1;
        while (self.try_receive()) ++size;
        sizes->push_back(size);
      }
    }
  };
  std::vector<std::size_t> sizes;
  SimExecutor sim;
  const auto to = sim.spawn<ProbeMessage>({}, Batches::run, &sizes);
  for (int i = 0; i < 7; ++i) to.post(Put{i});
  sim.run_until_idle();
  CHECK(sizes == std::vector<std::size_t>{7});
}

TEST_CASE("mailbox: an actor with much mail goes to the back after its budget") {
  // Both have 20 messages; with a budget neither may finish before the other has begun.
  struct Tagger {
    static Task<void> run(ActorContext<ProbeMessage>& self, int tag, std::vector<int>* order) {
      while (auto message = co_await self.receive()) order->push_back(tag);
    }
  };
  std::vector<int> order;
  SimExecutor sim(SimOptions{.seed = 3, .budget_max = 4});
  const auto a = sim.spawn<ProbeMessage>({}, Tagger::run, 0, &order);
  const auto b = sim.spawn<ProbeMessage>({}, Tagger::run, 1, &order);
  for (int i = 0; i < 20; ++i) {
    a.post(Put{i});
    b.post(Put{i});
  }
  sim.run_until_idle();
  REQUIRE(order.size() == 40);
  int changes = 0;
  for (std::size_t i = 1; i < order.size(); ++i) changes += order[i] != order[i - 1];
  CHECK(changes >= 2);
}

TEST_CASE("address: addresses are values with equality, order and hash") {
  Log log;
  SimExecutor sim;
  const auto a = spawn_recorder(sim, &log);
  const auto b = spawn_recorder(sim, &log);
  const auto copy = a;
  CHECK(copy == a);
  CHECK(a != b);
  CHECK((a < b) != (b < a));
  CHECK(std::set<Address<ProbeMessage>>{a, b, copy}.size() == 2);
  CHECK(std::hash<Address<ProbeMessage>>{}(a) == std::hash<Address<ProbeMessage>>{}(copy));
  CHECK_FALSE(static_cast<bool>(Address<ProbeMessage>{}));
}

}  // namespace spillway::runtime
