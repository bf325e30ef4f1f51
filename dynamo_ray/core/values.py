"""`value`: a frozen dataclass whose making costs what a plain one costs.

Python freezes a dataclass by setting each field with a call of `object.__setattr__`, which makes a
message of eight fields cost six times as much as its bytes (measured). A put makes some twenty
messages and effects, so here it is mypy that holds them frozen: assigning to a field of a `value`
is an error of types (tests/core/test_values.py), and at run time nothing is spent on it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(cls: type[T]) -> type[T]:
    """A slotted dataclass, compared and hashed by its fields; frozen for the type checker."""
    return dataclass(slots=True, unsafe_hash=True)(cls)
