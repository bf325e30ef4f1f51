"""What a cluster promises and bounds: N, R, W, durability, limits, times. Refuses nonsense."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

MIB = 1024 * 1024
DURABILITIES = ("memory", "written", "synced")


class SettingsError(ValueError):
    """A setting, or a combination of settings, that cannot be; the message names it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds (DESIGN rule 19). They bind what clients put, never repair, hints or merges.

    `repair_bytes` is how much comparisons of copies may move in a second, `transfer_bytes` how
    much a node may that gives partitions away (rule 21).
    """

    key_bytes: int = 1024
    value_bytes: int = MIB
    sibling_bytes: int = 8 * MIB
    batch_keys: int = 10_000
    batch_bytes: int = 2 * MIB
    frame_bytes: int = 64 * MIB
    in_flight: int = 1024
    queued_bytes: int = 64 * MIB
    hint_bytes: int = 1024 * MIB
    remembered_puts: int = 1_000_000
    repair_bytes: int = 8 * MIB
    transfer_bytes: int = 16 * MIB


@dataclass(frozen=True, slots=True)
class Times:
    """Durations in seconds. `timeout_max_s` bounds what a caller may ask for (see rule 7).

    The bytes of an expired value are purged after `purge_s`; what a delete or an expired value
    leaves behind is reaped after `grace_s`, ten days (rules 12 and 13). Each two owners of a
    partition compare their copies every `repair_s`.
    `snapshot_s`: a node that took anything since its last snapshot takes another one after that.
    """

    timeout_s: float = 2.0
    timeout_max_s: float = 10.0
    heartbeat_s: float = 0.1
    suspect_s: float = 0.6
    tick_s: float = 0.1
    sync_s: float = 1.0
    linger_s: float = 2.0
    purge_s: float = 3600.0
    grace_s: float = 864_000.0
    snapshot_s: float = 3600.0
    repair_s: float = 600.0

    @property
    def peer_s(self) -> float:
        """How long a node waits for what it asked another by itself."""
        return self.timeout_max_s / 2

    @property
    def message_s(self) -> float:
        """After so long nothing is under way any more that was begun before.

        An operation ends, and all it sent, at most two lingers after its time-out; the rest is for
        clocks that run at different speeds.
        """
        return 2 * (self.timeout_max_s + self.linger_s)


@dataclass(frozen=True, slots=True)
class Settings:
    """What is fixed at a cluster's creation. Raises SettingsError for what cannot be.

    `n` copies, `r` answers for a read, `w` for a write (Dynamo §4.5), `partitions` of the ring
    (§6.2), and the durability level of an acknowledgement: `memory`, `written` or `synced`.
    """

    n: int = 3
    r: int = 2
    w: int = 2
    partitions: int = 256
    durability: str = "written"
    limits: Limits = field(default_factory=Limits)
    times: Times = field(default_factory=Times)

    def __post_init__(self) -> None:
        if not 1 <= self.n <= 16:
            raise SettingsError(f"n is {self.n}; a key has 1 to 16 copies")
        for name, value in (("r", self.r), ("w", self.w)):
            if not 1 <= value <= self.n:
                raise SettingsError(f"{name} is {value}; it must be from 1 to n = {self.n}")
        if not 1 <= self.partitions <= 65_536:
            raise SettingsError(f"partitions is {self.partitions}; it must be from 1 to 65536")
        if self.durability not in DURABILITIES:
            raise SettingsError(
                f"durability is {self.durability!r}; it must be one of {', '.join(DURABILITIES)}"
            )
        for group in (self.limits, self.times):
            for one in fields(group):
                if not 0 < getattr(group, one.name) < 2**40:
                    raise SettingsError(f"{one.name} must be above 0, and not without end")
        self._check_pairs()

    def _check_pairs(self) -> None:
        """Settings that each may be, and not together."""
        limits, times = self.limits, self.times
        for low, high, why in (
            (times.timeout_s, times.timeout_max_s, "timeout_s is above timeout_max_s"),
            (2 * times.heartbeat_s, times.suspect_s, "suspect_s is below two heartbeats"),
            (limits.key_bytes, 65_535, "key_bytes is above 65535"),
            (
                2 * limits.sibling_bytes,
                limits.frame_bytes,
                "frame_bytes is below two sibling_bytes",
            ),
            (2 * limits.value_bytes, limits.frame_bytes, "frame_bytes is below two value_bytes"),
        ):
            if low > high:
                raise SettingsError(f"{why}; change one of them")

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain values, for JSON and the wire."""
        return asdict(self)


def settings_from(given: dict[str, Any]) -> Settings:
    """The settings that `to_dict` gave; raises SettingsError for a name that is not known."""
    given = dict(given)
    try:
        limits, times = Limits(**given.pop("limits", {})), Times(**given.pop("times", {}))
        return Settings(**given, limits=limits, times=times)
    except TypeError as error:
        raise SettingsError(f"a setting is not known: {error}") from error
