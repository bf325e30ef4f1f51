"""Assertions of the contract's clauses tell their values, as those in test files do."""

import pytest

pytest.register_assert_rewrite("tests.client.contract")
