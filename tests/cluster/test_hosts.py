"""What is said where hosts cannot be made. (That they can is shown by those who use them.)"""

from __future__ import annotations

import os
import shutil

import pytest

from tests.cluster import hosts
from tests.cluster.hosts import NEEDED, SSH_NEEDED, missing


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts.sys, "platform", "linux")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(shutil, "which", lambda program: None)
    said = "; ".join(missing(NEEDED | SSH_NEEDED))
    assert "root" in said and "sudo make cluster-test" in said
    for package in (*NEEDED.values(), *SSH_NEEDED.values()):
        assert f"(package {package})" in said


def test_nobody_is_asked_for_programs_on_another_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts.sys, "platform", "darwin")
    assert missing() == ["Linux, for namespaces"]
