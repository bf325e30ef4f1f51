"""The shell of a coordinator in the simulator: the twin of the coordinator server."""

from __future__ import annotations

import math
from typing import Any

from dynamo_ray.core.agreeing import Exchange
from dynamo_ray.core.coordinator import Coordinator, Out, ToNode
from dynamo_ray.core.detector import Detector
from dynamo_ray.core.gossip import Digests, News
from dynamo_ray.core.membership import View
from dynamo_ray.core.requests import Desk
from dynamo_ray.core.slots import Placement
from dynamo_ray.sim.gossip import Gossiper
from dynamo_ray.sim.network import Network, Peer
from dynamo_ray.sim.world import SECOND, World


class CoordinatorHost(Gossiper):
    """One coordinator: its machine, its detector, and no memory of earlier runs.

    What it begins with is what a start gives it: the view of the time at which it was founded.
    """

    def __init__(
        self, world: World, network: Network, name: str, desk: Desk, placement: Placement
    ) -> None:
        super().__init__(world, network, name)
        self.desk = desk
        self._founded = placement

    def start(self) -> None:
        """Start, or start again, with nothing in flight."""
        self.up = True
        times = self.desk.settings.times
        self.placement = self._founded
        self.machine = Coordinator(self.desk)
        self._wakes_at = math.inf
        self.detector = Detector(times)
        self.detector.watch(sorted(self.known), self.mono_s)
        self.after(int(times.tick_s * SECOND), "tick", self._tick)
        self.begin_gossip()

    def stop(self) -> None:
        """The process ends at once, with whatever was in flight."""
        self.end_run()
        self.break_off()

    def on_placement(self, is_other_ring: bool) -> None:
        """Watch whom there is now, and ask whom the ring says."""
        self.detector.watch(sorted(self.known), self.mono_s)
        if is_other_ring:
            ring, now = self.placement.ring, self.mono_s
            self._perform(self.machine.on_ring(ring, now, self.wall_ms))

    def on_call(
        self, src: Peer, call: int, message: Any, expires_ms: int, epoch: bytes | None
    ) -> None:
        """A client's request."""
        if isinstance(message, News | Digests):
            self.hear(src, call, message)
            return
        to = (src, src.run, call)
        expires = expires_ms / 1000
        self._perform(self.machine.on_request(to, message, expires, self.mono_s, self.wall_ms))

    def on_heard(self, peer: Peer) -> None:
        """A sign of life of a node."""
        if self.detector.on_heard(getattr(peer, "id", b""), self.mono_s):
            self._judge(frozenset())

    def on_peer_down(self, peer: Peer) -> None:
        """The connection to a node closed, or was refused."""
        self._judge(self.detector.on_down(getattr(peer, "id", b""), self.mono_s))

    def _tick(self) -> None:
        for node in self.known.values():
            if self.network.hears(self, node):
                self.take_reading(node)
        before = self.detector.suspected
        new = self.detector.on_tick(self.mono_s)
        if self.detector.suspected != before:
            self._judge(new)
        self._perform(self.machine.on_tick(self.mono_s, self.wall_ms))
        self.after(int(self.desk.settings.times.tick_s * SECOND), "tick", self._tick)

    def _judge(self, new: frozenset[bytes]) -> None:
        suspected = self.detector.suspected
        self._perform(self.machine.on_suspected(suspected, new, self.mono_s, self.wall_ms))

    def _perform(self, out: list[Out]) -> None:
        for effect in out:
            if isinstance(effect, ToNode):
                self._ask(effect)
            elif isinstance(effect, Exchange):
                self.exchange(effect.node)
            else:
                src, run, call = effect.to
                if src.run == run:
                    self.answer(src, call, effect.message)
        wakes_at = self.machine.wakes_at()
        if wakes_at is not None and wakes_at < self._wakes_at:
            self._wakes_at = wakes_at
            delay_us = max(0, math.ceil((wakes_at - self.mono_s) * SECOND))
            self.after(delay_us, "wake", self._wake, wakes_at)

    def _wake(self, due: float) -> None:
        if due == self._wakes_at:  # else an earlier one has taken its place
            self._wakes_at = math.inf
            now = self.mono_s
            self._perform(
                self.machine.on_wake(
                    now, self.wall_ms, lambda node: self.detector.silence_of(node, now).silence_s
                )
            )

    def _ask(self, effect: ToNode) -> None:
        call = effect.call

        def on_reply(message: Any) -> None:
            self._perform(self.machine.on_reply(call, message, self.mono_s, self.wall_ms))

        def on_failure(maybe_applied: bool) -> None:
            out = self.machine.on_failure(call, maybe_applied, self.mono_s, self.wall_ms)
            self._perform(out)

        node = self.directory[effect.node]
        self.call(node, effect.message, effect.timeout_s, on_reply, on_failure, effect.epoch)

    def on_told(self, node: bytes, view: View | None) -> None:
        """Go on with what the node refused because one of the two did not know."""
        self._perform(self.machine.on_exchanged(node, self.mono_s, self.wall_ms))
