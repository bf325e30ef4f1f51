"""Keys and tokens: roles and secrets never share a key, and a damaged token says so."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo_ray.wire.errors import TokenError
from dynamo_ray.wire.keys import (
    CLIENT,
    PEER,
    client_credentials,
    client_key,
    client_token,
    honoured_keys,
    key_id,
    peer_credentials,
    peer_key,
)

secrets = st.binary(min_size=32, max_size=32)


@given(secrets)
def test_a_token_gives_its_key_back(secret: bytes) -> None:
    token = client_token(secret)
    assert client_credentials(token).key == client_key(token)
    assert token == token.strip() and token.isascii() and len(token) < 64


@given(secrets, secrets)
def test_keys_differ_by_role_and_by_secret(one: bytes, other: bytes) -> None:
    keys = {peer_key(one), client_key(client_token(one)), one}
    assert len(keys) == 3
    if one != other:
        assert keys.isdisjoint({peer_key(other), client_key(client_token(other)), other})


def test_the_derivation_does_not_change_between_releases() -> None:
    """Nodes of two releases must understand each other; clients keep their tokens for years."""
    secret = bytes(range(32))
    assert (
        peer_key(secret).hex() == "6e6055cf79abb26152f04e51379817e5780d62331f2e3a0660341250c15bc6f7"
    )
    assert client_token(secret) == "drc1.slblLG7FaqKyUUJVsWZKAoheX5VgMiS_Rw-Qa0FZ5O-Wch2a"
    assert key_id(peer_key(secret)).hex() == "dd24b858b60e3ba7"


@given(secrets, st.integers(0, 100), st.characters(min_codepoint=33, max_codepoint=126))
def test_a_changed_character_is_noticed(secret: bytes, place: int, char: str) -> None:
    token = client_token(secret)
    place %= len(token)
    damaged = token[:place] + char + token[place + 1 :]
    if damaged != token:
        with pytest.raises(TokenError):
            client_key(damaged)


@pytest.mark.parametrize(
    "text", ["", "drc1.", "hello", "drc1.é", "drc1." + "A" * 47, "drc1." + "A" * 48]
)
def test_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(TokenError):
        client_key(text)


def test_a_cut_token_is_refused() -> None:
    token = client_token(b"s" * 32)
    for length in range(len(token)):
        with pytest.raises(TokenError):
            client_key(token[:length])


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_secret_has_32_bytes(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        peer_key(b"x" * length)
    with pytest.raises(ValueError, match="32 bytes"):
        client_token(b"x" * length)


def test_both_keys_of_every_secret_are_honoured() -> None:
    honoured = honoured_keys([b"a" * 32, b"b" * 32])
    assert sorted(role for role, _ in honoured.values()) == [CLIENT, CLIENT, PEER, PEER]
    assert honoured[key_id(peer_key(b"b" * 32))] == (PEER, peer_key(b"b" * 32))


def test_a_key_does_not_show_in_a_repr() -> None:
    credentials = peer_credentials(b"s" * 32)
    assert repr(credentials.key) not in repr(credentials)
    assert PEER in repr(credentials)
