"""What clients do: one function per manner of use, drawn per key.

Every put writes a value that nobody else writes, `number|elements|changes`: the number of the
write, for sets and carts the elements it holds, and which of them it added (+) or removed (-).

    blind        puts and deletes without a context, and reads
    concurrent   adds versions beside all others, and sometimes reads and writes back
    set          reads, unites all siblings, adds one element, writes with the context
    cart         as a set, and removes things too
    mixed        all of the above, old contexts, many keys in one request
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from dynamo_ray.core.version import values
from dynamo_ray.sim.checkers import elements
from dynamo_ray.sim.clients import ClientHost
from dynamo_ray.sim.cluster import Cluster
from dynamo_ray.sim.history import OK, Read, Write, decode
from dynamo_ray.sim.plan import Plan


class Workload:
    """The work of all clients of a run; numbers the writes."""

    def __init__(self, cluster: Cluster, keys: list[bytes]) -> None:
        self.plan: Plan = cluster.plan
        self.keys = keys
        self.styles = dict(zip(keys, cluster.plan.styles, strict=False))
        self._last = 0
        self._left = {client.name: cluster.plan.operations for client in cluster.clients}
        self._tokens: dict[tuple[str, bytes], list[bytes]] = {}
        cluster.history.styles.update(self.styles)

    def next(self, client: ClientHost) -> bool:
        """Do the client's next operation; False if it has done all."""
        if self._left[client.name] == 0:
            return False
        self._left[client.name] -= 1
        chance = client.chance
        key = self.keys[0] if chance.random() < 0.6 else chance.choice(self.keys)
        style = self.styles.get(key, "mixed")
        if style in ("set", "cart"):
            self._change_elements(client, key, style)
        elif style == "mixed" and chance.random() < self.plan.many_share and len(self.keys) > 1:
            self._many(client)
        elif chance.random() < 0.3:
            self._read(client, key, client.rest)
        else:
            self._write(client, key, style)
        return True

    def write(
        self, client: ClientHost, key: bytes, value: bytes | None, context: bytes | None
    ) -> Write:
        """A new write, numbered; its value begins with the number."""
        self._last += 1
        chance, plan = client.chance, self.plan
        body = None if value is None else b"%d%b" % (self._last, value)
        ttl_ms = chance.randint(1, 3000) if body and chance.random() < plan.ttl_share else 0
        w = chance.randint(1, plan.n) if chance.random() < plan.odd_quorums else plan.w
        strict = chance.random() < plan.strict_share
        put_id = chance.randbytes(16)
        return Write(self._last, client.name, key, body, context, put_id, ttl_ms, w, strict, 0)

    def read(self, client: ClientHost, key: bytes) -> Read:
        """A new read."""
        chance, plan = client.chance, self.plan
        r = chance.randint(1, plan.n) if chance.random() < plan.odd_quorums else plan.r
        return Read(client.name, key, r, chance.random() < plan.strict_share, 0)

    def _write(self, client: ClientHost, key: bytes, style: str) -> None:
        chance = client.chance
        value = None if chance.random() < self.plan.delete_share else b""
        known = self._tokens.get((client.name, key), [])
        if style == "blind":
            self._put(client, self.write(client, key, value, None))
        elif style == "concurrent" and chance.random() < 0.6:
            self._put(client, self.write(client, key, value, b""))
        elif known and chance.random() < 0.4:
            token = known[-1] if chance.random() < 0.7 else chance.choice(known)
            self._put(client, self.write(client, key, value, token))
        elif chance.random() < self.plan.context_share:
            self._read_then(client, key, lambda read: self.write(client, key, value, read.token))
        else:
            context = b"" if chance.random() < 0.2 else None
            self._put(client, self.write(client, key, value, context))

    def _put(self, client: ClientHost, *writes: Write) -> None:
        def told() -> None:
            for write in writes:
                if write.token is not None:
                    self._tokens.setdefault((client.name, write.key), []).append(write.token)
            client.rest()

        client.put(writes, told)

    def _read(self, client: ClientHost, key: bytes, then: Callable[[], None]) -> Read:
        read = self.read(client, key)

        def told() -> None:
            if read.outcome == OK:
                self._tokens.setdefault((client.name, key), []).append(read.token)
            then()

        client.get([read], told)
        return read

    def _read_then(self, client: ClientHost, key: bytes, make: Callable[[Read], Write]) -> None:
        def told() -> None:
            if read.outcome == OK:
                self._put(client, make(read))
            else:
                client.rest()

        read = self._read(client, key, told)

    def _change_elements(self, client: ClientHost, key: bytes, style: str) -> None:
        def make(read: Read) -> Write:
            held = seen_elements(read.state)
            if style == "cart" and held and client.chance.random() < 0.3:
                gone = client.chance.choice(sorted(held))
                held, change = held - {gone}, b"-" + gone
            else:
                one = b"e%d" % (self._last + 1)
                held, change = held | {one}, b"+" + one
            value = b"|" + b",".join(sorted(held)) + b"|" + change
            write = self.write(client, key, value, read.token)
            write.ttl_ms = 0
            return write

        self._read_then(client, key, make)

    def _many(self, client: ClientHost) -> None:
        chance = client.chance
        mixed = [key for key in self.keys if self.styles.get(key, "mixed") == "mixed"]
        keys = chance.sample(mixed, chance.randint(1, len(mixed)))
        if chance.random() < 0.4:
            reads = [self.read(client, key) for key in keys]
            for read in reads:
                read.r, read.strict = reads[0].r, reads[0].strict
            client.get(reads, client.rest)
            return
        writes = [self.write(client, key, b"", None) for key in keys]
        for write in writes:
            write.w, write.strict = writes[0].w, writes[0].strict
        self._put(client, *writes)


def seen_elements(state: bytes | None) -> set[bytes]:
    """The union of the elements of all siblings."""
    found: set[bytes] = set()
    for value in values(decode(state)) if state is not None else ():
        found |= elements(value)
    return found


def draw_keys(plan: Plan, chance: Random) -> list[bytes]:
    """The keys of a run; the first is the hot one."""
    return [b"k%d-%d" % (i, chance.randint(0, 99)) for i in range(plan.keys)]
