"""The handshake: who holds the key gets in and learns the truth; nobody else does."""

from __future__ import annotations

import copy
import hmac
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo_ray.wire import handshake as module
from dynamo_ray.wire.errors import FrameError, RefusalCode, RefusedError
from dynamo_ray.wire.frames import STRANGER_FRAME_BYTES, STRANGER_LIST_ITEMS, FrameReader, pack
from dynamo_ray.wire.handshake import (
    AcceptingHandshake,
    Admitted,
    ConnectingHandshake,
    Identity,
    Welcome,
)
from dynamo_ray.wire.keys import (
    PEER,
    client_credentials,
    client_token,
    honoured_keys,
    key_id,
    peer_credentials,
)

SECRET, OTHER = b"s" * 32, b"o" * 32
WHO = Identity(b"cluster-16-bytes", b"node-8-b", b"incarnation-14")
NEAR_MS, FAR_MS = 111_111, 222_222
NOW_SPOKEN = module.VERSIONS[1]
HELLO, CHALLENGE, PROOF, WELCOME = range(4)  # the order in which they are said


def near(credentials: Any = None, nonce: bytes = b"n" * 32, **options: Any) -> ConnectingHandshake:
    return ConnectingHandshake(credentials or peer_credentials(SECRET), nonce, **options)


def far(
    secrets: tuple[bytes, ...] = (SECRET,),
    nonce: bytes = b"f" * 32,
    who: Identity = WHO,
    **options: Any,
) -> AcceptingHandshake:
    return AcceptingHandshake(who, honoured_keys(secrets), nonce, **options)


def converse(
    one: ConnectingHandshake,
    other: AcceptingHandshake,
    tamper: Callable[[int, list[Any]], list[Any]] = lambda _, m: m,
) -> list[list[Any]]:
    """Carry messages, as frames, between the two until nobody answers; what was really said."""
    said: list[list[Any]] = []
    message: list[Any] | None = one.hello
    while message is not None and len(said) < 10:
        said.append(message)
        frame = pack(tamper(len(said) - 1, copy.deepcopy(message)))
        try:
            [heard] = FrameReader(STRANGER_FRAME_BYTES, STRANGER_LIST_ITEMS).feed(frame)
        except FrameError:
            break
        speaker, now = (other, FAR_MS) if len(said) % 2 else (one, NEAR_MS)
        message = speaker.on_message(heard, now)
    return said


def code(machine: ConnectingHandshake | AcceptingHandshake) -> RefusalCode:
    assert isinstance(machine.outcome, RefusedError), machine.outcome
    return machine.outcome.code


@pytest.mark.parametrize(
    "credentials",
    [
        peer_credentials(SECRET),
        client_credentials(client_token(SECRET)),
        peer_credentials(SECRET, WHO.cluster_id),
    ],
)
def test_both_sides_learn_the_truth(credentials: Any) -> None:
    one, other = near(credentials, max_frame_bytes=10_000), far(max_frame_bytes=20_000)
    assert len(converse(one, other)) == 4
    assert one.outcome == Welcome(WHO, FAR_MS, NOW_SPOKEN, 20_000)
    assert other.outcome == Admitted(credentials.role, NEAR_MS, NOW_SPOKEN, 10_000)


def test_a_wrong_secret_is_told_so() -> None:
    one, other = near(peer_credentials(OTHER)), far()
    converse(one, other)
    assert code(one) is code(other) is RefusalCode.WRONG_TOKEN
    assert "token" in str(one.outcome)


def test_a_known_key_id_without_its_key_gets_nowhere() -> None:
    """The id travels in the open; the proof needs the key."""
    one, other = near(peer_credentials(OTHER)), far()
    one.hello[5] = key_id(peer_credentials(SECRET).key)
    converse(one, other)
    assert code(other) is RefusalCode.WRONG_TOKEN


def test_a_client_token_does_not_make_a_peer() -> None:
    key = client_credentials(client_token(SECRET)).key
    one, other = near(module.Credentials(PEER, key)), far()
    converse(one, other)
    assert code(one) is code(other) is RefusalCode.WRONG_ROLE


def test_a_server_without_the_key_is_an_impostor() -> None:
    """It has heard the key id, honours everybody, and answers with a proof by another key."""
    one = near()
    other = AcceptingHandshake(
        WHO, {key_id(peer_credentials(SECRET).key): (PEER, OTHER)}, b"f" * 32
    )
    other._hello = one.hello
    other._key = OTHER
    challenge = other._challenged(one.hello)
    proof = one.on_message(challenge, NEAR_MS)
    assert proof is not None
    assert other.on_message(proof, FAR_MS)[1] == module.REFUSAL  # type: ignore[index]
    forged = [
        0,
        module.WELCOME,
        b"m" * 32,
        WHO.cluster_id,
        WHO.server_id,
        WHO.incarnation,
        FAR_MS,
        1 << 20,
    ]
    assert one.on_message(forged, NEAR_MS) is None
    assert code(one) is RefusalCode.IMPOSTOR


def test_a_recorded_conversation_does_not_open_the_next() -> None:
    first = converse(near(), far(nonce=b"1" * 32))
    again = far(nonce=b"2" * 32)
    again.on_message(first[HELLO], FAR_MS)
    again.on_message(first[PROOF], FAR_MS)
    assert code(again) is RefusalCode.WRONG_TOKEN


def test_a_recorded_server_does_not_convince_the_next_client() -> None:
    recorded = converse(near(nonce=b"1" * 32), far())
    later = near(nonce=b"2" * 32)
    assert later.on_message(recorded[CHALLENGE], NEAR_MS) is not None
    later.on_message(recorded[WELCOME], NEAR_MS)
    assert code(later) is RefusalCode.IMPOSTOR


def test_a_nonce_sent_back_is_refused() -> None:
    one = near(nonce=b"n" * 32)
    assert one.on_message([0, module.CHALLENGE, NOW_SPOKEN, b"n" * 32], NEAR_MS) is None
    assert code(one) is RefusalCode.IMPOSTOR


def test_a_proof_sent_back_is_no_proof() -> None:
    """Without the labels of the two sides, an echo of our own mac could pass for theirs."""
    one = near()
    proof = one.on_message([0, module.CHALLENGE, NOW_SPOKEN, b"f" * 32], NEAR_MS)
    assert proof is not None
    echo = [
        0,
        module.WELCOME,
        proof[2],
        WHO.cluster_id,
        WHO.server_id,
        WHO.incarnation,
        FAR_MS,
        1 << 20,
    ]
    one.on_message(echo, NEAR_MS)
    assert code(one) is RefusalCode.IMPOSTOR


def test_the_labels_of_the_sides_make_different_macs() -> None:
    assert module._mac(b"k" * 32, b"connecting", [1]) != module._mac(b"k" * 32, b"accepting", [1])
    assert module._mac(b"k" * 32, b"connecting", [1], [2]) != module._mac(
        b"k" * 32, b"connecting", [1, 2]
    )


def test_the_macs_are_by_the_book() -> None:
    """Computed here from what was said, so that no release changes them unawares."""
    hello, challenge, proof, welcome = converse(near(), far())
    key = hmac.digest(SECRET, b"dynamo_ray/1 peer", "sha256")

    def mac(label: bytes, *said: list[Any]) -> bytes:
        return hmac.digest(key, b"dynamo_ray/1 " + label + msgpack.packb(said), "sha256")

    assert proof[2] == mac(b"connecting", hello, challenge, proof[3:])
    assert welcome[2] == mac(b"accepting", hello, challenge, proof, welcome[3:])


def test_a_version_that_was_not_offered_is_refused() -> None:
    for version in (0, 3, 2**40):
        one = near(versions=(1, 2))
        assert one.on_message([0, module.CHALLENGE, version, b"f" * 32], NEAR_MS) is None
        assert code(one) is RefusalCode.MALFORMED


def test_two_secrets_are_honoured_while_one_replaces_the_other() -> None:
    for held in (SECRET, OTHER):
        for credentials in (peer_credentials(held), client_credentials(client_token(held))):
            one, other = near(credentials), far((OTHER, SECRET))
            converse(one, other)
            assert isinstance(one.outcome, Welcome) and isinstance(other.outcome, Admitted)
            assert other.outcome.role == credentials.role
    one, other = near(peer_credentials(SECRET)), far((OTHER,))
    converse(one, other)
    assert code(one) is RefusalCode.WRONG_TOKEN


def test_another_cluster_is_refused_by_the_server() -> None:
    """Also when the token is of yet another one: the sentence that helps most comes first."""
    for held in (SECRET, OTHER):
        one, other = near(peer_credentials(held, b"expected-16-byte")), far()
        converse(one, other)
        assert code(one) is code(other) is RefusalCode.OTHER_CLUSTER


def test_another_cluster_is_refused_by_the_client() -> None:
    """A server that lets everybody in, and proves that it holds the key, is still the wrong one."""
    expected = near(peer_credentials(SECRET, b"expected-16-byte"))
    liar = far(who=replace(WHO, cluster_id=b"expected-16-byte"))
    challenge = liar.on_message(expected.hello, FAR_MS)
    liar._identity = WHO
    welcome = liar.on_message(expected.on_message(challenge, NEAR_MS), FAR_MS)  # type: ignore[arg-type]
    expected.on_message(welcome, NEAR_MS)  # type: ignore[arg-type]
    assert code(expected) is RefusalCode.OTHER_CLUSTER


def test_versions_agree_on_the_newest_that_both_speak() -> None:
    one, other = near(versions=(1, 3)), far(versions=(2, 5))
    converse(one, other)
    assert isinstance(one.outcome, Welcome) and isinstance(other.outcome, Admitted)
    assert one.outcome.version == other.outcome.version == 3


def test_versions_that_do_not_meet_are_refused_by_name() -> None:
    one, other = near(versions=(2, 3)), far(versions=(1, 1))
    converse(one, other)
    assert code(one) is code(other) is RefusalCode.NEWER_PROTOCOL
    one, other = near(versions=(1, 1)), far(versions=(2, 3))
    converse(one, other)
    assert code(one) is code(other) is RefusalCode.OLDER_PROTOCOL


@pytest.mark.parametrize("where, field", [(HELLO, 3), (CHALLENGE, 2)])
def test_nobody_on_the_path_can_make_them_speak_an_older_version(where: int, field: int) -> None:
    def downgrade(step: int, message: list[Any]) -> list[Any]:
        if step == where:
            message[field] = 1
        return message

    one, other = near(versions=(1, 2)), far(versions=(1, 2))
    converse(one, other, downgrade)
    assert code(other) is RefusalCode.WRONG_TOKEN
    assert not isinstance(one.outcome, Welcome)


@given(
    st.integers(0, 3),
    st.integers(0, 8),
    st.sampled_from([0, 1, 2, 3, 4, 10**6, b"", b"x" * 16, b"x" * 32, "", "client", None]),
)
def test_whoever_is_convinced_believes_what_was_said(step: int, field: int, value: Any) -> None:
    """Whatever one field of one message becomes on the way: nobody believes what is not true."""

    def change(at: int, message: list[Any]) -> list[Any]:
        if at == step and 1 <= field < len(message):
            message[field] = value
        return message

    one, other = near(max_frame_bytes=10_000), far(max_frame_bytes=20_000)
    converse(one, other, change)
    assert isinstance(one.outcome, RefusedError) or one.outcome in (
        None,
        Welcome(WHO, FAR_MS, NOW_SPOKEN, 20_000),
    )
    assert isinstance(other.outcome, RefusedError) or other.outcome in (
        None,
        Admitted(PEER, NEAR_MS, NOW_SPOKEN, 10_000),
    )


anything = st.one_of(
    st.integers(0, 2**64 - 1),
    st.binary(max_size=40),
    st.text(max_size=20),
    st.none(),
    st.booleans(),
    st.lists(st.integers(), max_size=2),
)


@given(st.lists(st.lists(anything, max_size=9), max_size=4))
def test_nonsense_ends_in_a_refusal_never_in_an_exception(bodies: list[list[Any]]) -> None:
    for machine in (near(), far()):
        for number, body in enumerate(bodies):
            machine.on_message([0, number + 1, *body], 0)
        assert machine.outcome is None or code(machine) is not RefusalCode.BUSY


def test_lists_too_deep_to_pack_again_are_refused() -> None:
    deep: list[Any] = []
    for _ in range(900):
        deep = [deep]
    other = far()
    other.on_message([*near().hello, deep], FAR_MS)
    assert code(other) is RefusalCode.MALFORMED


def test_out_of_order_is_refused() -> None:
    said = converse(near(), far())
    for wrong in ([PROOF], [WELCOME], [CHALLENGE], [HELLO, HELLO]):
        other = far()
        for step in wrong:
            other.on_message(said[step], FAR_MS)
        assert code(other) is RefusalCode.MALFORMED
    for wrong in ([WELCOME], [CHALLENGE, CHALLENGE], [HELLO], [PROOF]):
        one = near()
        for step in wrong:
            one.on_message(said[step], NEAR_MS)
        assert code(one) is RefusalCode.MALFORMED


def test_who_the_server_is_stays_untold_until_the_proof() -> None:
    said = converse(near(), far())
    for secret in (WHO.cluster_id, WHO.server_id, WHO.incarnation):
        assert secret not in pack(said[CHALLENGE])
        assert secret in pack(said[WELCOME])


def test_no_key_travels() -> None:
    said = b"".join(map(pack, converse(near(), far())))
    assert SECRET not in said and peer_credentials(SECRET).key not in said


def test_after_the_end_nothing_is_heard() -> None:
    one, other = near(), far()
    said = converse(one, other)
    truth = one.outcome, other.outcome
    assert one.on_message([0, module.REFUSAL, "wrong token", "go away"], 0) is None
    assert other.on_message(said[PROOF], 0) is None
    assert (one.outcome, other.outcome) == truth


def test_a_refusal_is_shown_as_text_only() -> None:
    one = near()
    one.on_message([0, module.REFUSAL, "wrong token", "\x1b[2Jgone\n" + "x" * 1000], 0)
    assert code(one) is RefusalCode.WRONG_TOKEN
    shown = str(one.outcome)
    assert shown.isprintable() and len(shown) < 400
    newer = near()
    newer.on_message([0, module.REFUSAL, "a code of the future", "because"], 0)
    assert code(newer) is RefusalCode.OTHER


def test_a_newer_side_may_say_more() -> None:
    """A field behind the known ones is ignored, and yet under the proof."""
    one, other = near(), far()
    one.hello.append("more")
    converse(one, other)
    assert isinstance(other.outcome, Admitted)
    one, other = near(), far()
    converse(one, other, lambda step, message: [*message, "more"] if step == HELLO else message)
    assert code(other) is RefusalCode.WRONG_TOKEN


def test_macs_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    real = module.hmac.compare_digest
    monkeypatch.setattr(
        module.hmac, "compare_digest", lambda a, b: compared.append(1) or real(a, b)
    )
    converse(near(), far())
    assert len(compared) == 2


def test_a_nonce_that_a_stranger_cut_short_is_refused() -> None:
    one, other = near(), far()
    one.hello[6] = b"short"
    converse(one, other)
    assert code(other) is RefusalCode.MALFORMED
    one = near()
    one.on_message([0, module.CHALLENGE, NOW_SPOKEN, b"short"], 0)
    assert code(one) is RefusalCode.IMPOSTOR
