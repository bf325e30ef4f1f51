"""One storage node's decisions, as lists of effects: what is persisted before what is answered."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dynamo_ray.core.clock import Dot
from dynamo_ray.core.merge import merge
from dynamo_ray.core.messages import (
    Code,
    Effect,
    Fetch,
    Fetched,
    Merge,
    Merged,
    Mint,
    Minted,
    Persist,
    Renew,
    Reply,
    Send,
)
from dynamo_ray.core.mint import CONCURRENT
from dynamo_ray.core.replica import Replica
from dynamo_ray.core.settings import Limits, Settings
from dynamo_ray.core.version import clock_of, decode, digest
from tests.core.histories import dot, incarnation, node_id, seen, shown, state, version

A, B, C = node_id("a"), node_id("b"), node_id("c")
NOW = 1_000
OWNED, FOREIGN = 0, 1  # partitions of the replica under test
SETTINGS = Settings(partitions=2)


def delivered(node: Replica, owner: bytes) -> list[Effect]:
    """The owner has what was sent; nothing is to come here."""
    return node.on_delivered(owner, node.owned.__contains__)


def replica(
    node: bytes = A, settings: Settings = SETTINGS, owned: tuple[int, ...] = (OWNED,)
) -> Replica:
    made = Replica(node, settings, [{}, {}], frozenset(owned))
    made.on_incarnation(incarnation(1))
    return made


def mint(
    key: bytes,
    value: bytes | None,
    context: bytes | None = None,
    put_id: bytes = b"1",
    hint_for: bytes = b"",
    partition: int = OWNED,
    ttl_ms: int = 0,
) -> Mint:
    put_ids = [put_id.ljust(16, b".")]
    return Mint([key], [partition], [value], [context], put_ids, [ttl_ms], hint_for)


def merge_of(
    key: bytes, held: bytes, hint_for: bytes = b"", partition: int = OWNED, durable: bool = False
) -> Merge:
    return Merge([key], [partition], [held], hint_for, durable)


def minted(effects: list[Any]) -> Minted:
    """The answer of a mint, its contexts in full."""
    message = effects[-1].message
    assert isinstance(message, Minted), message
    contexts = message.contexts or [clock_of(state) for state in message.states]
    return Minted(list(message.states), list(contexts), list(message.codes))


def put(node: Replica, *args: Any, **options: Any) -> bytes:
    """A mint that is persisted at once; the resulting state."""
    effects = node.on_mint("put", mint(*args, **options), NOW)
    node.on_persisted(node.queue.last)
    found = minted(effects).states[0]
    assert found is not None
    return found


# Persist before answering (rules 1 and 8).


def test_a_mint_changes_the_map_persists_and_then_answers() -> None:
    node = replica()
    effects = node.on_mint("co", mint(b"k", b"v"), NOW)
    held = node.maps[OWNED][b"k"]
    assert shown(held) == {dot("a", 1): b"v"}
    assert effects[0] == Persist(1, [OWNED], [b"k"], [held], ())
    assert effects[1:] == [Reply("co", effects[1].message, after=1)]
    assert minted(effects) == Minted([held], [clock_of(held)], [])


def test_a_merge_persists_and_then_answers_and_a_known_state_answers_only() -> None:
    node, held = replica(), state(version(dot("b", 1), b"v"))
    assert node.on_merge("co", merge_of(b"k", held)) == [
        Persist(1, [OWNED], [b"k"], [held], ()),
        Reply("co", Merged(), after=1),
    ]
    assert node.on_merge("co", merge_of(b"k", held)) == [Reply("co", Merged(), after=1)]
    node.on_persisted(1)
    assert node.on_merge("co", merge_of(b"k", held)) == [Reply("co", Merged(), after=0)]


def test_a_read_waits_for_what_it_shows_and_for_nothing_else() -> None:
    node = replica()
    held = put(node, b"old", b"v")
    node.on_mint("co", mint(b"new", b"v", put_id=b"2"), NOW)
    (reply,) = node.on_fetch("co", Fetch([b"old"], [OWNED]))
    assert reply == Reply("co", Fetched([held], True), after=0)
    (reply,) = node.on_fetch("co", Fetch([b"old", b"new"], [OWNED, OWNED]))
    assert isinstance(reply, Reply) and reply.after == 2


def test_a_durable_merge_waits_for_the_whole_log_even_if_it_changes_nothing() -> None:
    node = replica()
    held = put(node, b"k", b"v")
    (reply,) = node.on_merge("peer", merge_of(b"k", held, durable=True))
    assert reply == Reply("peer", Merged(), after=1, durable=True)


def test_an_undone_position_is_nothing_to_wait_for() -> None:
    """Nobody will ever say that position 2 is in the log: a durable answer cannot wait for it."""
    node = replica()
    held = put(node, b"k", b"v")
    node.on_mint("co", mint(b"k", b"w", put_id=b"2"), NOW)
    node.on_append_failed(1)
    (reply,) = node.on_merge("peer", merge_of(b"k", held, durable=True))
    assert isinstance(reply, Reply) and reply.after == 1
    assert node.on_merge("peer", merge_of(b"x", held))[-1].after == 3  # and none is used twice


def test_an_owner_is_complete_for_its_partitions_only_and_if_it_can_prove_it() -> None:
    node = replica()
    assert node.on_fetch("co", Fetch([b"k"], [OWNED]))[0].message.complete
    assert not node.on_fetch("co", Fetch([b"k"], [FOREIGN]))[0].message.complete
    assert not node.on_fetch("co", Fetch([b"k", b"l"], [OWNED, FOREIGN]))[0].message.complete
    node.doubted = frozenset({OWNED})
    assert not node.on_fetch("co", Fetch([b"k"], [OWNED]))[0].message.complete


def test_without_an_incarnation_it_mints_nothing_but_merges() -> None:
    node = Replica(A, SETTINGS, [{}, {}], frozenset({OWNED}))
    (reply,) = node.on_mint("co", mint(b"k", b"v"), NOW)
    assert reply.message.code == Code.NOT_READY and not node.maps[OWNED]
    assert node.on_merge("co", merge_of(b"k", state(version(dot("b", 1), b"v"))))[-1].after == 1


# A key that must be refused fails alone.


def test_one_bad_context_fails_alone() -> None:
    node = replica()
    keys, ids = [b"x", b"y", b"z"], [bytes([i]) * 16 for i in range(3)]
    batch = Mint(keys, [OWNED] * 3, [b"v"] * 3, [None, b"no clock", None], ids, [0] * 3)
    persist, reply = node.on_mint("co", batch, NOW)
    assert persist.keys == [b"x", b"z"]
    assert minted([reply]).codes == [Code.OK, Code.INVALID_CONTEXT, Code.OK]
    assert reply.message.states[1] is None and reply.message.contexts[1] is None
    assert b"y" not in node.maps[OWNED]


def test_too_many_siblings_are_refused_and_a_put_that_replaces_them_passes() -> None:
    node = replica(settings=Settings(partitions=2, limits=Limits(sibling_bytes=1_000)))
    put(node, b"k", bytes(500), CONCURRENT, b"1")
    before = put(node, b"k", bytes(200), CONCURRENT, b"2")
    effects = node.on_mint("co", mint(b"k", bytes(500), CONCURRENT, b"3"), NOW)
    assert minted(effects) == Minted([None], [None], [Code.TOO_MANY_SIBLINGS])
    assert [effect.after for effect in effects] == [0]
    assert node.maps[OWNED][b"k"] == before
    assert len(shown(put(node, b"k", bytes(5_000), None, b"4"))) == 1


def test_a_put_that_makes_the_siblings_fewer_bytes_passes_over_the_bound() -> None:
    """A merge may have passed the bound: whoever resolves a part of it must not be refused."""
    node = replica(settings=Settings(partitions=2, limits=Limits(sibling_bytes=1_000)))
    versions = [version(dot("b", n), bytes(600)) for n in (1, 2, 3, 4)]
    node.on_merge("co", merge_of(b"k", state(*versions)))
    part = seen(dot("b", 1), dot("b", 2))
    assert len(shown(put(node, b"k", b"resolved", part))) == 3


def test_a_delete_leaves_a_tombstone_and_a_lifetime_an_expiry() -> None:
    node = replica()
    (held,) = decode(put(node, b"k", None)).versions
    assert (held.kind, held.payload, held.expiry_ms) == (1, b"", 0)
    (held,) = decode(put(node, b"l", b"v", ttl_ms=50, put_id=b"2")).versions
    assert (held.wall_ms, held.expiry_ms) == (NOW, NOW + 50)


def test_one_key_twice_in_a_batch_is_minted_twice() -> None:
    node = replica()
    ids = [b"1" * 16, b"2" * 16]
    batch = Mint([b"k", b"k"], [OWNED] * 2, [b"v", b"w"], [None] * 2, ids, [0] * 2)
    persist, _ = node.on_mint("co", batch, NOW)
    assert shown(node.maps[OWNED][b"k"]) == {dot("a", 2): b"w"}
    assert persist.states[-1] == node.maps[OWNED][b"k"]
    node.on_append_failed()
    assert node.maps[OWNED] == {}


# A failed append (rule 1).


def test_a_failed_append_restores_the_map_the_put_ids_and_asks_for_a_new_incarnation() -> None:
    node = replica()
    first = put(node, b"k", b"v1", put_id=b"1")
    node.on_mint("co", mint(b"k", b"v2", put_id=b"2"), NOW)
    node.on_mint("co", mint(b"k", b"v3", put_id=b"3"), NOW)
    node.on_mint("co", mint(b"new", b"v", put_id=b"4"), NOW)
    assert node.on_append_failed(1) == [Renew()]
    assert node.maps[OWNED] == {b"k": first}
    assert len(node.puts) == 0
    assert node.on_mint("co", mint(b"k", b"v2", put_id=b"2"), NOW)[0].message.code == Code.NOT_READY
    node.on_incarnation(incarnation(2))
    after = put(node, b"k", b"v2", put_id=b"2")
    assert shown(after) == {dot("a", 1, run=2): b"v2"}


def test_what_the_log_was_given_before_the_failure_stays() -> None:
    node = replica()
    node.on_mint("co", mint(b"k", b"v1", put_id=b"1"), NOW)
    node.on_mint("co", mint(b"k", b"v2", put_id=b"2"), NOW)
    node.on_append_failed(1)
    assert shown(node.maps[OWNED][b"k"]) == {dot("a", 1): b"v1"}


def test_a_failed_append_takes_hints_back_with_their_copies() -> None:
    """Copy and hint are one record (rule 10): where the copy is undone, so is its hint."""
    node = replica()
    node.on_mint("co", mint(b"k", b"v", hint_for=B, partition=FOREIGN), NOW)
    assert node.hints.owners() == [B]
    node.on_append_failed()
    assert node.hints.owners() == [] and not node.maps[FOREIGN]


def test_a_failed_append_brings_back_the_hint_of_a_copy_that_was_let_go() -> None:
    """Else it would be a copy for nobody, to be let go of without anybody's word."""
    node = replica()
    held = put(node, b"k", b"v", hint_for=B, partition=FOREIGN)
    node.on_tick(NOW, frozenset())
    delivered(node, B)
    assert not node.maps[FOREIGN]
    node.on_append_failed(1)
    assert node.maps[FOREIGN] == {b"k": held}
    assert node.hints.of(b"k") == B
    assert node.on_tick(NOW, frozenset()) == [Send(B, merge_of(b"k", held, b"", FOREIGN, True))]


# Retries (rule 7).


def test_a_retry_at_the_same_node_is_the_same_put() -> None:
    node = replica()
    first = node.on_mint("co", mint(b"k", b"v"), NOW)
    (reply,) = again = node.on_mint("co", mint(b"k", b"v"), NOW + 5)
    assert minted(again) == minted(first) and reply.after == first[1].after
    node.on_persisted(1)
    (reply,) = again = node.on_mint("co", mint(b"k", b"v"), NOW + 9)
    assert minted(again) == minted(first) and reply.after == 0


def test_a_retry_at_a_node_that_merged_it_is_the_same_put() -> None:
    one, other = replica(A), replica(B)
    held = put(one, b"k", b"v")
    other.on_merge("co", merge_of(b"k", held))
    assert minted(other.on_mint("co", mint(b"k", b"v"), NOW)).states == [held]


def test_a_retry_after_it_was_replaced_changes_nothing_and_deletes_nothing() -> None:
    node = replica()
    put(node, b"k", b"v1", put_id=b"1")
    held = put(node, b"k", b"v2", put_id=b"2")
    again = minted(node.on_mint("co", mint(b"k", b"v1", put_id=b"1"), NOW))
    assert again.states == [held] and node.maps[OWNED][b"k"] == held
    assert again.contexts == [seen(dot("a", 1))]


def test_the_same_put_id_with_another_value_is_another_put() -> None:
    node = replica()
    put(node, b"k", b"v1", CONCURRENT)
    assert len(shown(put(node, b"k", b"v2", CONCURRENT))) == 2
    assert len(shown(put(node, b"k", b"v1", None))) == 1


def test_a_retry_of_a_put_that_went_home_is_unknown() -> None:
    """The stand-in minted it, handed it home and forgot the key: where it is now it cannot say."""
    node = replica()
    put(node, b"k", b"v", hint_for=B, partition=FOREIGN)
    node.on_tick(NOW, frozenset())
    delivered(node, B)
    again = minted(node.on_mint("co", mint(b"k", b"v", hint_for=B, partition=FOREIGN), NOW))
    assert again == Minted([None], [None], [Code.UNKNOWN])
    assert not node.hints.owners()


def test_a_retry_after_an_undo_is_minted_anew() -> None:
    node = replica()
    node.on_mint("co", mint(b"k", b"v"), NOW)
    node.on_append_failed()
    node.on_incarnation(incarnation(2))
    effects = node.on_mint("co", mint(b"k", b"v"), NOW)
    assert isinstance(effects[0], Persist)
    assert shown(node.maps[OWNED][b"k"]) == {dot("a", 1, run=2): b"v"}


# Hints (rule 10).


def test_copy_and_hint_are_one_record() -> None:
    node = replica()
    (persist, reply) = node.on_mint("co", mint(b"k", b"v", hint_for=B, partition=FOREIGN), NOW)
    assert (persist.keys[-1], persist.hints[-1]) == (b"k", B)
    assert reply.after == persist.position
    persist, _ = node.on_merge("co", merge_of(b"k", persist.states[-1], C, FOREIGN))
    assert persist.hints == [B + C]  # the copy was there; the hint alone needs a record


def test_over_the_bound_a_stand_in_refuses_and_applies_nothing() -> None:
    node = replica(settings=Settings(partitions=2, limits=Limits(hint_bytes=300)))
    put(node, b"k", b"v", hint_for=B, partition=FOREIGN)
    for effects in (
        node.on_mint("co", mint(b"l", bytes(250), hint_for=B, partition=FOREIGN), NOW),
        node.on_merge("co", merge_of(b"l", state(version(dot("c", 1), bytes(250))), B, FOREIGN)),
    ):
        assert effects[0].message.code == Code.HINTS_FULL and len(effects) == 1
    assert list(node.maps[FOREIGN]) == [b"k"]
    put(node, b"mine", bytes(1_000), put_id=b"2")  # what is no hint is not bound


def test_a_hint_goes_home_once_its_owner_answers_and_then_the_copy_is_let_go() -> None:
    node = replica()
    held = put(node, b"k", b"v", hint_for=B, partition=FOREIGN)
    assert node.on_tick(NOW, frozenset({B})) == []
    assert node.on_tick(NOW, frozenset()) == [Send(B, merge_of(b"k", held, b"", FOREIGN, True))]
    assert node.on_tick(NOW, frozenset()) == []  # one delivery at a time
    assert delivered(node, B) == [Persist(2, [FOREIGN], [b"k"], [None], ())]
    assert not node.maps[FOREIGN] and not node.hints.owners()
    assert delivered(node, B) == []


def test_a_delivery_that_failed_is_sent_again() -> None:
    node = replica()
    put(node, b"k", b"v", hint_for=B, partition=FOREIGN)
    sent = node.on_tick(NOW, frozenset())
    node.on_not_delivered(B)
    assert node.on_tick(NOW, frozenset()) == sent


def test_a_copy_that_changed_under_way_stays_and_is_sent_again() -> None:
    node = replica()
    put(node, b"k", b"v", hint_for=B, partition=FOREIGN)
    node.on_tick(NOW, frozenset())
    newer = put(node, b"k", b"w", hint_for=B, partition=FOREIGN, put_id=b"2")
    assert delivered(node, B) == []
    assert node.on_tick(NOW, frozenset()) == [Send(B, merge_of(b"k", newer, b"", FOREIGN, True))]


def test_an_owner_keeps_its_copy_when_the_hint_has_gone_home() -> None:
    node = replica()
    held = put(node, b"k", b"v", hint_for=B, partition=OWNED)
    node.on_tick(NOW, frozenset())
    assert delivered(node, B) == [Persist(2, [OWNED], [b"k"], [held], ())]
    assert node.maps[OWNED] == {b"k": held}


def test_a_copy_kept_for_two_is_let_go_after_the_second() -> None:
    node = replica()
    held = put(node, b"k", b"v", hint_for=B, partition=FOREIGN)
    node.on_merge("co", merge_of(b"k", held, C, FOREIGN))
    node.on_persisted(2)
    assert len(node.on_tick(NOW, frozenset())) == 2
    assert delivered(node, B) == [Persist(3, [FOREIGN], [b"k"], [held], [C])]
    assert delivered(node, C) == [Persist(4, [FOREIGN], [b"k"], [None], ())]


def test_what_is_not_persisted_does_not_go_home() -> None:
    node = replica()
    node.on_mint("co", mint(b"k", b"v", hint_for=B, partition=FOREIGN), NOW)
    assert node.on_tick(NOW, frozenset()) == []
    node.on_persisted(1)
    assert len(node.on_tick(NOW, frozenset())) == 1


def test_a_delivery_fits_into_a_batch_and_one_big_state_goes_alone() -> None:
    """512 keys of a megabyte would be no frame that anybody takes, tick after tick."""
    node = replica(settings=Settings(partitions=2, limits=Limits(batch_bytes=1_000)))
    for number, size in enumerate((2_000, 300, 300, 300)):
        put_id = bytes([number])
        put(node, put_id, bytes(size), hint_for=B, partition=FOREIGN, put_id=put_id)
    sizes = []
    while effects := node.on_tick(NOW, frozenset()):
        sizes.append(len(effects[0].message.keys))
        delivered(node, B)
        node.on_persisted(node.queue.last)
    assert sizes == [1, 2, 1]


def test_hints_that_recovery_found_are_taken_over() -> None:
    held = state(version(dot("b", 1), b"v"))
    node = Replica(A, SETTINGS, [{}, {b"k": held}], frozenset({OWNED}))
    node.load_hints({b"k": B + C, b"gone": B})
    assert node.hints.owners() == [B, C] and node.hints.of(b"gone") == b""


def test_a_key_that_went_home_and_comes_back_begins_a_new_life() -> None:
    node = replica()
    put(node, b"k", b"v1", hint_for=B, partition=FOREIGN, put_id=b"1")
    home = put(node, b"k", b"v2", hint_for=B, partition=FOREIGN, put_id=b"2")
    node.on_tick(NOW, frozenset())
    delivered(node, B)
    again = put(node, b"k", b"v3", hint_for=B, partition=FOREIGN, put_id=b"3")
    assert shown(merge(home, again)) == {dot("a", 2): b"v2", dot("a", 1, life=2): b"v3"}


# A random life of three nodes: no acknowledged write is lost, no dot is minted twice.

_node = st.sampled_from("abc")
_steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), _node, st.integers(0, 5), st.sampled_from(["", *"abc"])),
        st.tuples(st.just("put"), _node, st.integers(0, 5), st.sampled_from(["", *"abc"])),
        st.tuples(st.just("sync"), _node, _node),
        st.tuples(st.just("persist"), _node),
        st.tuples(st.just("fail"), _node),
        st.tuples(st.just("home"), _node),
    ),
    max_size=30,
)


class Three:
    """Nodes a, b and c; a and b own the key's partition. Answers wait for their position."""

    def __init__(self) -> None:
        self.nodes: dict[str, Replica] = {}
        self.acked: dict[Dot, bytes] = {}
        self.waiting: dict[str, list[tuple[int, bytes]]] = {n: [] for n in "abc"}
        self.minted: set[Dot] = set()
        self.contexts: list[bytes | None] = [None, CONCURRENT]
        self.runs = 1
        for name in "abc":
            owned = (OWNED,) if name in "ab" else ()
            self.nodes[name] = replica(node_id(name), owned=owned)

    def put(self, name: str, which: int, hint_for: str) -> None:
        node, before = self.nodes[name], self.nodes[name].maps[OWNED].get(b"k")
        context = self.contexts[which % len(self.contexts)]
        hint = node_id(hint_for) if hint_for not in ("", name) and name == "c" else b""
        put_id = b"%d" % len(self.minted)
        effects = node.on_mint("co", mint(b"k", put_id, context, put_id, hint), NOW)
        answer = minted(effects)
        held = answer.states[0]
        assert held is not None and held == node.maps[OWNED][b"k"]
        (new,) = shown(held).keys() - shown(before).keys()
        assert new not in self.minted, "a dot was minted twice"
        self.minted.add(new)
        self.contexts.append(answer.contexts[0])
        self.waiting[name].append((effects[-1].after, held))

    def sync(self, giver: str, taker: str) -> None:
        held = self.nodes[giver].maps[OWNED].get(b"k")
        if held is not None and not self.nodes[giver].queue.shown_at([b"k"]):
            self.nodes[taker].on_merge("co", merge_of(b"k", held))
            self.persist(taker)

    def persist(self, name: str) -> None:
        node = self.nodes[name]
        node.on_persisted(node.queue.last)
        for _, held in self.waiting[name]:
            self.acked.update(shown(held))
        self.waiting[name].clear()

    def fail(self, name: str) -> None:
        self.waiting[name].clear()
        self.nodes[name].on_append_failed()
        self.runs += 1
        self.nodes[name].on_incarnation(incarnation(self.runs))

    def home(self, name: str) -> None:
        node = self.nodes[name]
        for effect in node.on_tick(NOW, frozenset()):
            assert isinstance(effect, Send) and isinstance(effect.message, Merge)
            owner = chr(effect.node[0])
            self.nodes[owner].on_merge("peer", effect.message)
            self.persist(owner)
            delivered(node, effect.node)
            self.persist(name)


@given(_steps)
def test_in_a_random_life_nothing_acknowledged_is_lost(steps: list[tuple[Any, ...]]) -> None:
    three = Three()
    for name, *rest in steps:
        getattr(three, name)(*rest)
    for name in "abc":
        three.persist(name)
    held = [n.maps[OWNED][b"k"] for n in three.nodes.values() if b"k" in n.maps[OWNED]]
    if not held:
        assert not three.acked
        return
    together = held[0]
    for one in held:
        together = merge(together, one)
    clock = decode(together).clock
    for at in three.acked:
        assert clock.covers(at), f"{at} was acknowledged, and nobody has heard of it"
    assert digest(together) == digest(merge(together, together))
