"""Links that are slow, lose, repeat and reorder; one-way cuts; calls that end in the ways of TCP.

Every message draws its own delay, so messages overtake each other. A cut keeps some of what was
said for the time when it heals (as TCP does, which then hands it over late) and loses the rest, all
without a sign. A host that crashes is noticed by those who can reach it: their calls end LOST, and
new ones end UNSENT at once. Silence ends nothing: that is the business of detectors and deadlines.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dynamo_ray.sim.world import MILLISECOND, SECOND, Host, World

# A stream never says twice what was said once. Merges and answers are repeated all the same, and
# nothing may hang on it. These are not: refused once and done once, they would end as no call can.
ONCE = frozenset({"Mint", "ClientPut"})

OnReply = Callable[[Any], None]
OnFailure = Callable[[bool], None]


@dataclass(frozen=True, slots=True)
class Weather:
    """How bad the links are, for a whole run."""

    delay_us: int = 500
    tail_us: int = 300
    slow_share: float = 0.0
    slow_us: int = 50_000
    loss: float = 0.0
    repeat: float = 0.0
    kept_by_cut: float = 0.5
    notice_us: int = 5 * MILLISECOND


CALM = Weather()


class Network:
    """All links; `weather` may change while the world runs."""

    def __init__(self, world: World, weather: Weather) -> None:
        self.world = world
        self.weather = weather
        self.trace: list[tuple[int, str, str, Any]] | None = None
        self._chance = world.stream("net")
        self._cuts: dict[tuple[str, str], int] = {}
        self._kept: list[tuple[Host, Host, int, str, Any, tuple[Any, ...]]] = []

    def is_cut(self, src: Host, dst: Host) -> bool:
        """True while nothing that `src` says reaches `dst`."""
        return (src.name, dst.name) in self._cuts

    def hears(self, listener: Host, speaker: Host) -> bool:
        """True if a ping of `listener` to `speaker` is answered now."""
        if not speaker.up or speaker.paused:
            return False
        if self.is_cut(speaker, listener) or self.is_cut(listener, speaker):
            return False
        return not self.weather.loss or self._chance.random() >= self.weather.loss

    def cut(self, src: Host, dst: Host) -> None:
        """From now on nothing that `src` says reaches `dst`; cuts are counted, each must heal."""
        pair = (src.name, dst.name)
        self._cuts[pair] = self._cuts.get(pair, 0) + 1

    def heal(self, src: Host, dst: Host) -> None:
        """One cut of this direction heals; with the last one what was kept arrives, late."""
        pair = (src.name, dst.name)
        left = self._cuts.get(pair, 0) - 1
        if left > 0:
            self._cuts[pair] = left
            return
        self._cuts.pop(pair, None)
        self._release()

    def heal_all(self) -> None:
        """No link is cut any more."""
        self._cuts.clear()
        self._release()

    def send(
        self, src: Host, dst: Host, kind: str, action: Callable[..., None], *args: Any
    ) -> None:
        """Say something to a host; `kind` names it in the digest."""
        if not dst.up:
            return
        if self.is_cut(src, dst):
            if self._chance.random() < self.weather.kept_by_cut:
                self._kept.append((src, dst, dst.run, kind, action, args))
            return
        weather, chance = self.weather, self._chance
        if weather.loss and chance.random() < weather.loss:
            return
        dst.after(self.delay_us(), kind, action, *args)
        if weather.repeat and kind not in ONCE and chance.random() < weather.repeat:
            dst.after(self.delay_us() + self.delay_us(), kind, action, *args)

    def delay_us(self) -> int:
        """How long the next message takes."""
        weather, chance = self.weather, self._chance
        delay = weather.delay_us + int(chance.random() * chance.random() * 4 * weather.tail_us)
        if weather.slow_share and chance.random() < weather.slow_share:
            delay += int(chance.random() * weather.slow_us)
        return delay

    def _release(self) -> None:
        kept, self._kept = self._kept, []
        for src, dst, run, kind, action, args in kept:
            if self.is_cut(src, dst):
                self._kept.append((src, dst, run, kind, action, args))
            elif dst.up and dst.run == run:
                dst.after(self.delay_us(), kind, action, *args)


class Peer(Host):
    """A host that calls and is called: the table of its calls, and who it noticed to be down."""

    def __init__(self, world: World, network: Network, name: str) -> None:
        super().__init__(world, name)
        self.network = network
        self._calls: dict[int, tuple[Peer, OnReply, OnFailure]] = {}
        self._last_call = 0
        self._readings: dict[str, tuple[int, int]] = {}

    def on_call(
        self, src: Peer, call: int, message: Any, expires_ms: int, epoch: bytes | None
    ) -> None:
        """A request came; subclasses answer it by `answer`."""
        raise NotImplementedError

    def on_heard(self, peer: Peer) -> None:
        """A sign of life came from a peer."""

    def on_peer_down(self, peer: Peer) -> None:
        """The connection to a peer was closed or refused."""

    def call(
        self,
        dst: Peer,
        message: Any,
        timeout_s: float,
        on_reply: OnReply,
        on_failure: OnFailure,
        epoch: bytes | None = None,
    ) -> int:
        """Ask; exactly one of the two is called at most once (silence calls neither)."""
        if not dst.up and not self.network.is_cut(self, dst):
            on_failure(False)
            self.after(self.network.weather.delay_us, "refused", self.on_peer_down, dst)
            return 0
        self._last_call += 1
        call = self._last_call
        self._calls[call] = (dst, on_reply, on_failure)
        expires_ms = self._expiry_at(dst, timeout_s)
        self._say(dst, message, dst.on_call, self, call, message, expires_ms, epoch)
        return call

    def ask(
        self,
        dst: Peer,
        message: Any,
        timeout_s: float,
        end: Callable[[Any], None],
        epoch: bytes | None = None,
    ) -> None:
        """Ask; `end` is told once: the answer, or None for a failure or the time limit."""

        def late() -> None:
            if self.give_up(call):
                end(None)

        call = self.call(dst, message, timeout_s, end, lambda maybe_applied: end(None), epoch)
        if call:
            self.after(int(timeout_s * SECOND), "time limit", late)

    def give_up(self, call: int) -> bool:
        """Wait no longer for a call's reply; False if it has ended already."""
        return self._calls.pop(call, None) is not None

    def answer(self, dst: Peer, call: int, message: Any) -> None:
        """Answer a call of `dst`."""
        self._say(dst, message, dst.take_reply, self, call, message, self.mono_ms)

    def take_reply(self, src: Peer, call: int, message: Any, reading_ms: int) -> None:
        """A reply came: a sign of life, a reading of the peer's clock, and the end of a call."""
        self._readings[src.name] = (reading_ms, self.mono_ms)
        self.on_heard(src)
        ended = self._calls.pop(call, None)
        if ended is not None:
            ended[1](message)

    def take_reading(self, peer: Peer) -> None:
        """A ping was answered."""
        self._readings[peer.name] = (peer.mono_ms, self.mono_ms)
        self.on_heard(peer)

    def connection_lost(self, peer: Peer) -> None:
        """A peer closed the connection, or it broke: every call to it ends LOST."""
        lost = [call for call, ended in self._calls.items() if ended[0] is peer]
        failures = [self._calls.pop(call)[2] for call in lost]
        for on_failure in failures:
            on_failure(True)
        self.on_peer_down(peer)

    def break_off(self) -> None:
        """This host has ended its run: whoever can be reached notices, each a little later."""
        self._calls.clear()
        self._readings.clear()
        for other in self.world.hosts.values():
            if other is self or not isinstance(other, Peer) or not other.up:
                continue
            if not self.network.is_cut(self, other):
                delay = self.network.weather.notice_us + self.network.delay_us()
                other.after(delay, "connection lost", other.connection_lost, self)

    def _expiry_at(self, dst: Peer, timeout_s: float) -> int:
        """The reading of the peer's clock at which the request is too old (DESIGN §4)."""
        reading_ms, heard_ms = self._readings.get(dst.name, (dst.mono_ms, self.mono_ms))
        return reading_ms + (self.mono_ms - heard_ms) + int(timeout_s * 1000)

    def _say(self, dst: Peer, message: Any, action: Callable[..., None], *args: Any) -> None:
        if self.network.trace is not None:
            self.network.trace.append((self.world.now, self.name, dst.name, message))
        self.network.send(self, dst, type(message).__name__, action, *args)
