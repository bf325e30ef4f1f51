"""The law of the lean paths: byte for byte what the general ways give, side effects too."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from dynamo_ray.core.messages import Merge, Mint, Reply
from dynamo_ray.core.mint import CONCURRENT
from dynamo_ray.core.plain import Plain
from dynamo_ray.core.replica import Replica
from dynamo_ray.core.settings import Settings
from dynamo_ray.core.version import clock_of

KEYS = [b"k", b"l"]
STEPS = st.lists(
    st.tuples(
        st.sampled_from([*["put"] * 3, "delete", "with context", "beside", "retry", "merge"]),
        st.integers(0, 1),
        st.sampled_from(KEYS),
        st.sampled_from(KEYS),
        st.sampled_from([b"", b"v", b"w" * 20]),
    ),
    max_size=25,
)


def fresh() -> list[Replica]:
    nodes = [Replica(bytes([65 + i]) * 8, Settings(), [{}], frozenset({0})) for i in range(2)]
    for i, node in enumerate(nodes):
        node.on_incarnation(bytes([i]) * 14)
    return nodes


def in_full(effect):
    """An answer that leaves out the contexts, because each is its state's clock, with them."""
    if not isinstance(effect, Reply) or effect.message.contexts:
        return effect
    contexts = [clock_of(state) for state in effect.message.states]
    return replace(effect, message=replace(effect.message, contexts=contexts))


def play(steps, nodes):
    """Run the steps on two nodes; everything that they answered and hold."""
    said, last, seen = [], None, {}
    for number, (what, at, key, second, value) in enumerate(steps):
        node = nodes[at]
        if what == "merge":
            states = {k: s for k, s in nodes[1 - at].maps[0].items()}
            message = Merge(list(states), [0] * len(states), list(states.values()))
            said.append(node.on_merge("co", message))
            continue
        context = {"with context": seen.get(key), "beside": CONCURRENT}.get(what)
        put_id = last if what == "retry" and last else number.to_bytes(16, "big")
        last = put_id
        body = None if what == "delete" else value
        # Two puts in one message; of the same key, the second stands on the first.
        other = (number + 1000).to_bytes(16, "big")
        keys, ids = [key, second], [put_id, other]
        message = Mint(keys, [0, 0], [body, value], [context, None], ids, [0, 0])
        effects = [in_full(effect) for effect in node.on_mint("co", message, 1000 + number)]
        seen |= zip(keys, effects[-1].message.contexts, strict=True)
        said.append(effects)
        for one in nodes:
            one.on_persisted(one.queue.last)
    remembered = [(dict(node.puts.generations[0]), sorted(node.lives.ended)) for node in nodes]
    return said, [node.maps for node in nodes], remembered


@given(STEPS)
def test_the_lean_paths_give_what_the_general_ways_give(steps) -> None:
    lean = play(steps, fresh())
    lean_mint, lean_merge = Plain.mint, Plain.merge
    Plain.mint = lambda self, m, now, changes, general: list(map(general, range(len(m.keys))))
    Plain.merge = lambda self, m, changes, general: list(map(general, range(len(m.keys))))
    try:
        general = play(steps, fresh())
    finally:
        Plain.mint, Plain.merge = lean_mint, lean_merge
    assert lean == general


def test_most_of_a_plain_batch_takes_the_lean_path(monkeypatch) -> None:
    node = fresh()[0]
    general = []
    monkeypatch.setattr(Replica, "_mint_one", lambda *row: general.append(row))
    keys = [b"%d" % i for i in range(100)]
    for start in (0, 1000):
        ids = [(start + i).to_bytes(16, "big") for i in range(100)]
        node.on_mint("co", Mint(keys, [0] * 100, keys, [None] * 100, ids, [0] * 100), 1)
    assert not general and len(node.maps[0]) == 100
