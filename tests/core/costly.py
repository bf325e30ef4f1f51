"""How many examples a property gets whose every example takes long, such as a large ring."""

from __future__ import annotations

from hypothesis import settings

# A quarter of what the profile says: few in `make test`, many in `make soak`.
costly = settings(max_examples=settings().max_examples // 4, deadline=None)
