"""VIEW, where a node remembers the others: read only as it was written, and never much of it."""

from __future__ import annotations

import os
from pathlib import Path

import msgpack
import pytest

from dynamo_ray.core.charter import Charter
from dynamo_ray.core.membership import NODE_ROLE, Fact, View
from dynamo_ray.core.ring import Member
from dynamo_ray.core.settings import Settings
from dynamo_ray.server.recovering import Recovering
from dynamo_ray.server.vault import Vault, open_vault
from dynamo_ray.storage.sealed import seal_bytes

MEMBER = Member(b"N" * 8, "n1")
CHARTER = Charter(b"C" * 16, "carts", Settings(n=1, r=1, w=1, partitions=8), (MEMBER,))
VIEW = View().with_facts([Fact(b"i" * 14, 0, b"N" * 8, NODE_ROLE, "n1", "127.0.0.1", 7400)])


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    vault = open_vault(CHARTER, MEMBER, str(tmp_path), True, Recovering("n1"))
    vault.keep_view(VIEW)
    return vault


def test_a_view_comes_back(vault: Vault) -> None:
    assert vault.known_view(View()) == VIEW
    vault.close()


def test_no_changed_byte_of_it_is_believed(vault: Vault, tmp_path: Path) -> None:
    """A flip in an incarnation would hide that member until its incarnations came up to it."""
    content = (tmp_path / "VIEW").read_bytes()
    for at in range(len(content)):
        for changed in (
            content[:at],
            content[:at] + bytes([content[at] ^ (1 << at % 8)]) + content[at + 1 :],
        ):
            (tmp_path / "VIEW").write_bytes(changed)
            assert vault.known_view(View()) == View(), at
    vault.close()


@pytest.mark.parametrize(
    "rows",
    [
        None,
        7,
        {},
        [[]],
        [["a"] * 6],
        [[b"i", b"m", "node", "n1", "h", -1]],
        [[b"", b"", [], "", "", 1]],
    ],
)
def test_what_is_no_view_is_none_though_its_checksum_fits(
    vault: Vault, tmp_path: Path, rows: object
) -> None:
    (tmp_path / "VIEW").write_bytes(seal_bytes(msgpack.packb(rows)))
    assert vault.known_view(View()) == View()
    deep = b"\x91" * 100_000 + b"\xc0"
    (tmp_path / "VIEW").write_bytes(seal_bytes(deep))
    assert vault.known_view(View()) == View()
    vault.close()


def test_a_view_that_claims_a_terabyte_is_not_read(vault: Vault, tmp_path: Path) -> None:
    os.truncate(tmp_path / "VIEW", 1 << 40)
    assert vault.known_view(View()) == View()
    vault.close()
