"""A whole partition is read from all its nodes: nothing acknowledged is missed, in small pages."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamo_ray.core.clock import Clock, Dot
from dynamo_ray.core.merge import merge
from dynamo_ray.core.sweep import Ask, Page, Rows, Sweep, Swept, merged, rest_of
from dynamo_ray.core.version import Kind, State, Version, encode

Held = dict[bytes, bytes]


def state(writer: int, counter: int = 1) -> bytes:
    name = bytes([writer]) * 30
    version = Version(Dot(name, counter), Kind.VALUE, 0, 0, bytes(16), b"%d" % counter)
    return encode(State(Clock({name: counter}), (version,)))


def page(held: Held, after: bytes, size: int, complete: bool = True) -> Page:
    keys = sorted(key for key in held if key > after)[:size]
    return Page(keys, [held[key] for key in keys], len(keys) < size, complete)


def sweep(
    stand_ins: list[bytes],
    owners: list[bytes],
    answer: Callable[[Ask], Page | None],
) -> tuple[Held, Swept]:
    """Run the machine to its end; what it found, each key once and in order."""
    machine, found, keys = Sweep(stand_ins, owners), {}, [b""]
    effects = machine.start()
    while True:
        asks = [effect for effect in effects if isinstance(effect, Ask)]
        for effect in effects:
            if isinstance(effect, Rows):
                keys += effect.keys
                found |= dict(zip(effect.keys, effect.states, strict=True))
            elif isinstance(effect, Swept):
                assert all(a < b for a, b in pairwise(keys)) and not asks
                return found, effect
        effects = machine.on_pages({ask.node: answer(ask) for ask in asks})


def test_each_key_once_with_the_merge_of_what_nodes_hold() -> None:
    nodes = {
        b"s": {b"k3": state(3)},
        b"a": {b"k1": state(1), b"k2": state(1, 2), b"k3": state(1)},
        b"b": {b"k1": state(1), b"k2": state(1, 1), b"k4": state(2)},
    }
    found, swept = sweep([b"s"], [b"a", b"b"], lambda ask: page(nodes[ask.node], ask.after, 2))
    assert found == {
        b"k1": state(1),
        b"k2": state(1, 2),
        b"k3": merge(state(3), state(1)),
        b"k4": state(2),
    }
    assert swept == Swept(frozenset())


def test_who_gives_nothing_or_not_everything_is_missing_and_what_it_gave_counts() -> None:
    nodes = {node: {b"%d" % i: state(1) for i in range(9)} for node in (b"a", b"b", b"c", b"s")}
    nodes[b"c"][b"c only"] = state(9)
    asked: list[Ask] = []

    def answer(ask: Ask) -> Page | None:
        asked.append(ask)
        if ask.node == b"a" or (ask.node == b"b" and ask.after):
            return None
        return page(nodes[ask.node], ask.after, 2, complete=ask.node != b"c")

    found, swept = sweep([b"s"], [b"a", b"b", b"c"], answer)
    assert found == nodes[b"c"]
    assert swept == Swept(frozenset({b"a", b"b", b"c"}))
    assert sum(ask.node == b"a" for ask in asked) == 1, "who is silent is not asked again"


def test_a_node_that_doubts_one_page_is_missing_although_it_is_sure_of_the_next() -> None:
    held = {b"%d" % i: state(1) for i in range(5)}
    _, swept = sweep([], [b"a"], lambda ask: page(held, ask.after, 2, complete=bool(ask.after)))
    assert swept == Swept(frozenset({b"a"}))


@pytest.mark.parametrize("stand_ins", [[], [b"s"]])
def test_nobody_answers(stand_ins: list[bytes]) -> None:
    assert sweep(stand_ins, [b"a"], lambda ask: None) == ({}, Swept(frozenset({b"a", *stand_ins})))
    assert sweep([], [], lambda ask: None) == ({}, Swept(frozenset()))


KEYS = st.binary(min_size=1, max_size=2)


@settings(deadline=None)
@given(st.dictionaries(KEYS, st.integers(1, 9), max_size=12), st.data())
def test_a_key_that_goes_home_meanwhile_is_not_missed(kept: dict[bytes, int], data) -> None:
    """A stand-in forgets a key only once the owner has it; that may be between any two pages."""
    nodes: dict[bytes, Held] = {
        b"s": {key: state(writer) for key, writer in kept.items()},
        b"t": {key: state(writer + 10) for key, writer in kept.items() if writer % 2},
        b"a": dict.fromkeys(data.draw(st.lists(KEYS, max_size=6)), state(99)),
        b"b": {},
    }
    wanted: Held = {}
    for held in nodes.values():
        wanted |= {key: merge(wanted.get(key, one), one) for key, one in held.items()}

    def answer(ask: Ask) -> Page:
        for stand_in, owner in ((b"s", b"a"), (b"t", b"b")):
            if nodes[stand_in] and data.draw(st.booleans()):
                key = data.draw(st.sampled_from(sorted(nodes[stand_in])))
                home = nodes[stand_in].pop(key)
                nodes[owner][key] = merge(nodes[owner].get(key, home), home)
        return page(nodes[ask.node], ask.after, data.draw(st.integers(1, 3)))

    found, swept = sweep([b"s", b"t"], [b"a", b"b"], answer)
    assert found == wanted and not swept.missing


def test_the_rows_of_pages_end_where_they_are_told_to() -> None:
    pages = [Page([b"a", b"c"], [state(1), state(1)], True), Page([b"b"], [state(2)], True)]
    assert merged(pages, b"b").keys == [b"a", b"b"]
    assert merged(pages, None).keys == [b"a", b"b", b"c"]
    assert rest_of(pages[0], b"b") == Page([b"c"], [state(1)], True)
