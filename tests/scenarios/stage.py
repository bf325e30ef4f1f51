"""The stage on which scenarios play: real machines, messages in order, no chance and no clock.

Every key has the owners n0, n1, … and the stand-ins that follow them. What a node logs is on its
disk at once. A message to a node that is down fails; the answer of a node that is muted is lost
with its connection. Each verb of the small language is a method, and returns what happened.
"""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

from dynamo_ray.core.context import ContextKeys
from dynamo_ray.core.coordinator import Coordinator, ToClient, ToNode
from dynamo_ray.core.messages import (
    ClientGet,
    ClientPut,
    Code,
    Fetch,
    Fetched,
    Merge,
    Mint,
    Minted,
    Persist,
    PutDone,
    Refused,
)
from dynamo_ray.core.node import Answer, Node, ToPeer
from dynamo_ray.core.replica import Replica
from dynamo_ray.core.requests import Desk
from dynamo_ray.core.ring import Member, Ring
from dynamo_ray.core.settings import Settings
from dynamo_ray.core.version import Kind, Version, clock_of, decode, values
from tests.core.histories import incarnation, placement

COORDINATOR = "co"


class Delivered(NamedTuple):
    """What an answer belongs to: a node's request to this one."""

    node: bytes
    request: Any


class Actor:
    """A storage node on the stage: its machine while it runs, its disk, how often it began."""

    def __init__(self, node: bytes, settings: Settings, ring: Ring) -> None:
        self.node, self.settings, self.ring = node, settings, ring
        self.disk: dict[bytes, tuple[bytes, bytes]] = {}
        self.runs = 0
        self.muted = False
        self.machine: Node | None = None
        self.begin()

    def begin(self) -> None:
        self.runs += 1
        held = {key: state for key, (state, _) in self.disk.items()}
        owned = frozenset({0}) if self.node in self.ring.owners(0) else frozenset()
        replica = Replica(self.node, self.settings, [held], owned)
        replica.load_hints({key: hints for key, (_, hints) in self.disk.items() if hints})
        self.machine = Node(replica, self.settings, placement(self.ring, self.settings))
        self.machine.on_incarnation(incarnation(self.runs))

    def log(self, record: Persist) -> list[Any]:
        hints = record.hints or [b""] * len(record.keys)
        for key, state, owners in zip(record.keys, record.states, hints, strict=True):
            self.disk.pop(key, None)
            if state is not None:
                self.disk[key] = state, owners
        assert self.machine is not None
        return self.machine.on_appended(record.position) + self.machine.on_synced(record.position)


class Stage:
    """A cluster, one coordinator, and the messages under way."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.lines: list[str] = []
        self.steps: list[tuple[str, str, str]] = []
        self.queue: deque[tuple[str, str, Any, Any]] = deque()
        self.contexts: dict[str, bytes] = {}
        self.puts = 0
        self.dies_at = ""

    def run(self, command: str) -> list[str]:
        """Play one command; the lines that tell what happened."""
        verb, *words = command.split()
        named = dict(word.split("=", 1) for word in words if "=" in word)
        plain = [word for word in words if "=" not in word]
        self.lines = []
        told: list[str] | None = getattr(self, verb)(*plain, **named)
        self._play()
        return self.lines + (told or []) or ["ok"]

    # ---- verbs

    def cluster(self, nodes: str, n: str = "3", r: str = "2", w: str = "2") -> None:
        settings = Settings(n=int(n), r=int(r), w=int(w), partitions=1)
        ids = {f"n{i}": f"n{i}".encode().ljust(8, b".") for i in range(int(nodes))}
        members = tuple(Member(node, name) for name, node in ids.items())
        ring = Ring(1, int(n), members, tuple(ids.values())[: int(n)])
        self.actors = {name: Actor(node, settings, ring) for name, node in ids.items()}
        self.desk = Desk(ring, settings, ContextKeys(b"cluster", [b"secret"]))
        self.coordinator = Coordinator(self.desk)

    def crash(self, name: str) -> None:
        if name == COORDINATOR:
            self.coordinator = Coordinator(self.desk)
        else:
            self.actors[name].machine = None

    def restart(self, name: str) -> None:
        self.actors[name].begin()

    def suspect(self, *names: str) -> None:
        """From now on the coordinator holds exactly these nodes to be unreachable."""
        suspected = frozenset(self.actors[name].node for name in names)
        new = suspected - self.coordinator.desk.suspected
        self._take(self.coordinator.on_suspected(suspected, new, self.now_s, self._ms()))

    def mute(self, name: str) -> None:
        self.actors[name].muted = True

    def unmute(self, name: str) -> None:
        self.actors[name].muted = False

    def put(self, key: str, *words: str, **named: str) -> None:
        value = words[0].encode() if words and words[0] != "strict" else None
        self.puts += 1
        put_id = named.get("id", str(self.puts)).encode().ljust(16, b".")
        context = {"none": None, "concurrent": b""}.get(named.get("context", "none"))
        if context is None and "context" in named:
            context = self.contexts[named["context"]]
        self.dies_at = named.get("dies", "")
        columns = [key.encode()], [value], [context], [put_id], [0]
        message = ClientPut(*columns, int(named.get("w", 0)), "strict" in words)
        self._ask(message, named.get("keep", key))

    def delete(self, key: str, **named: str) -> None:
        self.put(key, **named)

    def get(self, key: str, *words: str, **named: str) -> None:
        message = ClientGet([key.encode()], int(named.get("r", 0)), "strict" in words)
        self._ask(message, named.get("keep", key))

    def tick(self, seconds: str = "0.1") -> None:
        """Time passes; everybody is asked what should be true now."""
        self.now_s += float(seconds)
        self._take(self.coordinator.on_tick(self.now_s, self._ms()))
        self._play()
        down = frozenset(a.node for a in self.actors.values() if a.machine is None)
        for name, actor in self.actors.items():
            if actor.machine is not None:
                self._node_out(name, actor.machine.on_tick(self._ms(), self._ms(), down))
            self._play()

    def hints(self) -> list[str]:
        rows = [
            f"{name} keeps {key.decode()} for {' '.join(self._names(owners))}"
            for name, actor in self.actors.items()
            for key, (_, owners) in sorted(actor.disk.items())
            if owners
        ]
        return rows or ["nobody keeps anything for anybody"]

    def state(self, key: str) -> list[str]:
        rows = []
        for name, actor in self.actors.items():
            held = actor.disk.get(key.encode(), (None, b""))[0]
            down = " (down)" if actor.machine is None else ""
            if held is not None:
                rows.append(f"{name}  {self._state(held)}{down}")
        return rows or ["nobody holds it"]

    def ladder(self) -> list[str]:
        """The last exchange as a picture: who spoke to whom, downwards in time."""
        columns = ["client", COORDINATOR, *self.actors]
        width = 8
        rows = ["".join(f"{name:<{width}}" for name in columns).rstrip()]
        for source, target, label in self.steps:
            i, j = columns.index(source), columns.index(target)
            cells = [
                ("-" if min(i, j) <= c < max(i, j) else " ") * (width - 1)
                for c in range(len(columns))
            ]
            line = "".join("|" + cell for cell in cells)
            at = j * width
            head = ">" if i < j else "<"
            line = (
                line[: at - 1] + head + line[at:]
                if i < j
                else line[: at + 1] + head + line[at + 2 :]
            )
            rows.append(f"{line.rstrip()}  {label}")
        return rows

    # ---- messages

    def _ask(self, message: Any, keep: str) -> None:
        self.steps = []
        what = f"get {message.keys[0].decode()}"
        if isinstance(message, ClientPut):
            value = message.values[0]
            name = message.keys[0].decode()
            what = f"delete {name}" if value is None else f"put {name}={value.decode()}"
        self.steps.append(("client", COORDINATOR, what))
        to = message, keep
        self._take(self.coordinator.on_request(to, message, self.now_s + 1, self.now_s, self._ms()))

    def _play(self) -> None:
        while self.queue:
            source, target, to, message = self.queue.popleft()
            self._deliver(source, target, to, message)

    def _deliver(self, source: str, target: str, to: Any, message: Any) -> None:
        if target == COORDINATOR:
            return self._to_coordinator(source, to, message)
        actor = self.actors[target]
        if isinstance(to, Delivered):
            self._say(source, target, message)
            if actor.machine is not None:
                return self._node_out(target, actor.machine.on_peer(to.node, to.request, message))
            return None
        if actor.machine is None:
            self._say(source, target, message, " (down)")
            if source == COORDINATOR:
                out = self.coordinator.on_failure(to.call, False, self.now_s, self._ms())
                return self._take(out)
            sender = self.actors[source].machine
            return (
                self._node_out(source, sender.on_peer(actor.node, message, None))
                if sender
                else None
            )
        self._say(source, target, message)
        expires_ms = self._ms() + (int(to.timeout_s * 1000) if isinstance(to, ToNode) else 1_000)
        request = source, to
        out = actor.machine.on_request(request, message, expires_ms, self._ms(), self._ms())
        return self._node_out(target, out)

    def _to_coordinator(self, source: str, to: ToNode, message: Any) -> None:
        if self.dies_at and type(message).__name__ == self.dies_at:
            self._say(source, COORDINATOR, message, " (the coordinator dies)")
            self.lines.append("client <- connection lost")
            self.dies_at = ""
            return self.crash(COORDINATOR)
        if self.actors[source].muted:
            self._say(source, COORDINATOR, message, " (lost)")
            out = self.coordinator.on_failure(to.call, True, self.now_s, self._ms())
            return self._take(out)
        self._say(source, COORDINATOR, message)
        return self._take(self.coordinator.on_reply(to.call, message, self.now_s, self._ms()))

    def _take(self, out: list[Any]) -> None:
        for effect in out:
            if isinstance(effect, ToNode):
                (target,) = self._names(effect.node)
                self.queue.append((COORDINATOR, target, effect, effect.message))
            elif isinstance(effect, ToClient):
                self._to_client(*effect.to, effect.message)

    def _node_out(self, name: str, out: list[Any]) -> None:
        pending = deque(out)
        while pending:
            effect = pending.popleft()
            if isinstance(effect, Persist):
                pending.extend(self.actors[name].log(effect))
            elif isinstance(effect, Answer):
                source, to = effect.to
                end = Delivered(to.node, to.message) if isinstance(to, ToPeer) else to
                self.queue.append((name, source, end, effect.message))
            elif isinstance(effect, ToPeer):
                (target,) = self._names(effect.node)
                self.queue.append((name, target, effect, effect.message))

    def _to_client(self, request: Any, keep: str, reply: Any) -> None:
        key = request.keys[0]
        if isinstance(reply, Refused) or reply.failures:
            why = reply if isinstance(reply, Refused) else reply.failures[0]
            numbers = "" if isinstance(why, Refused) else f", {why.received} of {why.required}"
            text = f"{Code(why.code).name.lower()}{numbers}"
        elif isinstance(reply, PutDone):
            self.contexts[keep] = reply.contexts[0] or b""
            text = "ok"
        else:
            held = reply.states[0]
            clock = clock_of(held) if held else self.desk.contexts.seal(key, b"")[18:]
            self.contexts[keep] = reply.seals[0] + clock if held else b""
            found = [value.decode() for value in values(decode(held))] if held else []
            text = " and ".join(found) or "not found"
            text += " (degraded)" if reply.degraded else ""
        self.lines.append(f"client <- {text}")
        self.steps.append((COORDINATOR, "client", text))

    # ---- words

    def _ms(self) -> int:
        return 1_000 + int(self.now_s * 1000)

    def _names(self, nodes: bytes) -> list[str]:
        return [nodes[i : i + 8].rstrip(b".").decode() for i in range(0, len(nodes), 8)]

    def _say(self, source: str, target: str, message: Any, end: str = "") -> None:
        text = self._message(message) + end
        self.lines.append(f"{source} -> {target}  {text}")
        self.steps.append((source, target, text))

    def _message(self, message: Any) -> str:
        name = type(message).__name__
        if isinstance(message, Mint):
            value = message.values[0]
            text = f"{name} {message.keys[0].decode()}"
            text += "" if value is None else f"={value.decode()}"
        elif isinstance(message, Merge):
            text = f"{name} {message.keys[0].decode()} {self._state(message.states[0])}"
        elif isinstance(message, Fetch):
            return f"{name} {message.keys[0].decode()}"
        elif isinstance(message, Minted | Fetched):
            held = message.states[0]
            return f"{name} {'nothing' if held is None else self._state(held)}"
        elif isinstance(message, Refused):
            return f"{name} {Code(message.code).name.lower()}"
        else:
            return name
        return text + (f" for {self._names(message.hint_for)[0]}" if message.hint_for else "")

    def _state(self, held: bytes) -> str:
        return "{" + ", ".join(self._version(one) for one in decode(held).versions) + "}"

    def _version(self, one: Version) -> str:
        (name,) = self._names(one.dot.writer[:8])
        run = int.from_bytes(one.dot.writer[8:14], "big")
        life = int.from_bytes(one.dot.writer[-8:], "big")
        payload = "deleted" if one.kind == Kind.TOMBSTONE else one.payload.decode()
        return f"{name}#{run}.{life}:{one.dot.counter} {payload}"
