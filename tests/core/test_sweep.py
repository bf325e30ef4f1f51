"""A whole partition is read from all its nodes: nothing acknowledged is missed, in small pages."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamo_ray.core.clock import Clock, Dot
from dynamo_ray.core.following import PAUSE_S, TRIES
from dynamo_ray.core.merge import merge
from dynamo_ray.core.sweep import Ask, Learn, Page, Parted, Rows, Sweep, Swept, merged, rest_of
from dynamo_ray.core.version import Kind, State, Version, encode

Held = dict[bytes, bytes]
Placed = tuple[list[bytes], list[bytes], bytes]


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
    answer: Callable[[Ask], Page | Parted | None],
    learn: Callable[[Learn], Placed] = lambda learn: pytest.fail("nobody refused"),
    epoch: bytes = b"",
) -> tuple[Held, Swept]:
    """Run the machine to its end; what it found, each key once and in order."""
    machine, found, keys = Sweep(stand_ins, owners, epoch), {}, [b""]
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
        if isinstance(effects[-1], Learn):
            assert not asks
            effects = machine.on_ring(*learn(effects[-1]))
        else:
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


class Moving:
    """Nodes whose slots go from one to another between any two answers, while hints go home.

    What a node acknowledged nobody else holds. `told`: up to which ring a node knows of all.
    """

    def __init__(self, chance: Random) -> None:
        self.chance = chance
        self.rings = [[b"a", b"b"]]
        self.nodes: dict[bytes, Held] = {name: {} for name in (b"a", b"b", b"c", b"d")}
        self.told = dict.fromkeys(self.nodes, 0)
        self.hints: list[tuple[bytes, bytes, int]] = []  # key, who keeps it, for which slot
        for number in range(chance.randint(1, 16)):
            key, slot = b"%d" % chance.randint(0, 20), chance.randint(0, 1)
            keeper = chance.choice([b"c", b"d", self.rings[0][slot]])
            self.nodes[keeper][key] = merge(self.nodes[keeper].get(key, state(0)), state(number))
            self.hints += [(key, keeper, slot)] if keeper in (b"c", b"d") else []

    def placed(self, ring: int) -> Placed:
        owners = self.rings[ring]
        return [node for node in self.nodes if node not in owners], owners, b"".join(owners)

    def held(self) -> Held:
        found: Held = {}
        for held in self.nodes.values():
            found |= {key: merge(found.get(key, one), one) for key, one in held.items()}
        return found

    def step(self) -> None:
        """Something happens: a slot moves, a key goes home, a node hears of it, or lets go."""
        what, owners = self.chance.randint(0, 5), self.rings[-1]
        if what == 0 and len(self.rings) < 5:
            slot = self.chance.randint(0, 1)
            receiver = self.chance.choice([node for node in self.nodes if node not in owners])
            self.give(owners[slot], receiver)
            moved = [receiver if at == slot else node for at, node in enumerate(owners)]
            self.rings.append(moved)
            self.told[owners[slot]] = len(self.rings) - 1
        elif what == 1 and self.hints:
            key, keeper, slot = self.hints.pop()
            self.give(keeper, owners[slot], [key])
        elif what == 2:
            self.told[self.chance.choice(sorted(self.nodes))] = len(self.rings) - 1
        elif what == 3:
            for node, held in self.nodes.items():
                if node not in owners and self.told[node] == len(self.rings) - 1:
                    kept = {key for key, keeper, _ in self.hints if keeper == node}
                    for key in held.keys() - kept:
                        del held[key]

    def give(self, giver: bytes, receiver: bytes, keys: list[bytes] | None = None) -> None:
        to = self.nodes[receiver]
        for key in self.nodes[giver] if keys is None else keys:
            one = self.nodes[giver].get(key)
            if one is not None:
                to[key] = merge(to.get(key, one), one)

    def answer(self, ask: Ask) -> Page | Parted:
        self.step()
        if ask.epoch not in (None, b"".join(self.rings[self.told[ask.node]])):
            return Parted()
        return page(self.nodes[ask.node], ask.after, self.chance.randint(1, 3))

    def learn(self, learn: Learn) -> Placed:
        """A refusal shows what the node knows; one that is behind hears of it in the end."""
        self.step()
        self.seen = max([self.seen, *(self.told[node] for node in learn.nodes)])
        if learn.after_s:
            self.told |= {node: max(self.told[node], self.seen) for node in learn.nodes}
        return self.placed(self.seen)

    seen = 0


@settings(deadline=None, max_examples=300)
@given(st.integers())
def test_a_partition_that_changes_hands_meanwhile_is_read_whole(seed: int) -> None:
    moving = Moving(Random(seed))
    wanted = moving.held()
    found, swept = sweep([b"c", b"d"], [b"a", b"b"], moving.answer, moving.learn, b"ab")
    assert found.keys() == wanted.keys() and not swept.missing
    assert all(merge(found[key], one) == found[key] for key, one in wanted.items())


def test_the_window_begins_again_and_what_was_read_stays() -> None:
    held = {b"%d" % i: state(1) for i in range(6)}
    asked: list[Ask] = []

    def answer(ask: Ask) -> Page | Parted | None:
        asked.append(ask)
        if ask.epoch == b"old" and ask.after:
            return Parted()
        return page(held, ask.after, 3) if ask.node in (b"a", b"d") else None

    found, swept = sweep([b"d"], [b"a"], answer, lambda learn: ([b"e"], [b"d"], b"new"), b"old")
    assert found == held
    assert asked[-3:] == [Ask(b"e", b"2"), Ask(b"d", b"2", b"new"), Ask(b"d", b"5", b"new")]
    assert swept.missing == {b"e"}, "of the window that was given up nobody is missing"


def test_who_knows_other_owners_for_long_is_missing() -> None:
    held, pauses = {b"k": state(1)}, []

    def learn(learn: Learn) -> Placed:
        assert list(learn.nodes) == [b"b"]
        pauses.append(learn.after_s)
        return [b"s"], [b"a", b"b"], b"x"

    asked: list[Ask] = []

    def answer(ask: Ask) -> Page | Parted:
        asked.append(ask)
        return Parted() if ask.node == b"b" else page(held, ask.after, 9)

    found, swept = sweep([b"s"], [b"a", b"b"], answer, learn, b"x")
    assert found == held and swept.missing == {b"b"}
    assert pauses == [0.0] + [PAUSE_S] * (TRIES - 1)
    assert [ask.node for ask in asked[:3]] == [b"s", b"a", b"b"]
    assert {ask.node for ask in asked[3:]} == {b"b"}, "who has answered is not asked again"


def test_a_stand_in_that_refuses_is_not_left_out() -> None:
    answers: list[Page | Parted] = [Parted(), page({b"k": state(1)}, b"", 9)]

    def answer(ask: Ask) -> Page | Parted:
        return answers.pop(0) if ask.node == b"s" else page({}, b"", 9)

    found, _ = sweep([b"s"], [b"a"], answer, lambda learn: ([b"s"], [b"a"], b""))
    assert found.keys() == {b"k"}
