"""Assertions of the contract's clauses tell their values, as those in test files do."""
