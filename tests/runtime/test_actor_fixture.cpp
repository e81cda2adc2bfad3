// SPDX-License-Identifier: Apache-2.0
#include "tests/support/actor_fixture.hpp"

namespace spillway::runtime {
namespace {

struct Pong {
  int value = 0;
  friend bool operator==(const Pong&, const Pong&) = default;
};
struct Begin {};
using PlayerMessage = std::variant<Begin, Pong>;
struct Ping {
  int value = 0;
  Address<PlayerMessage> from;
};

Task<void> wall(ActorContext<Ping>& self) {
  while (auto ping = co_await self.receive()) ping->from.post(Pong{ping->value + 1});
}

Task<void> player(ActorContext<PlayerMessage>& self, Address<Ping> to) {
  int value = 10;
  while (auto message = co_await self.receive()) {
    if (auto* pong = std::get_if<Pong>(&*message)) value = pong->value;
    if (value < 12) to.post(Ping{value, self.address()});
  }
}

}  // namespace

TEST_CASE("fixture: a conversation is checked message by message") {
  ActorFixture f;
  const auto b = f.sim.spawn<Ping>({.name = "wall"}, wall);
  const auto a = f.sim.spawn<PlayerMessage>({.name = "player"}, player, b);
  f.expect_none(a);
  a.post(Begin{});
  f.expect<Begin>().from_outside().to(a);
  f.expect<Ping>().from(a).to(b).with([](const Ping& ping) { return ping.value == 10; });
  f.expect_none(b);
  f.expect<Pong>().from(b).to(a).with(Pong{11});
  f.expect<Ping>().from(a).to(b);
  f.expect<Pong>().to(a).with(Pong{12});
  f.expect_none(a);
  f.expect_none(b);
}

}  // namespace spillway::runtime
