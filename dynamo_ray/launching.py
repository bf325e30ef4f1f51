"""A Ray cluster on this machine that outlives the command that started it, for the command line.

`begin` starts it, `use` lets this process reach it, `end` ends exactly that: its processes by pid
and its temporary directory.
"""

from __future__ import annotations

from typing import Any


def begin() -> dict[str, Any]:
    """Start a Ray head; how to reach and end it, as plain values. Raises UnavailableError."""
    from dynamo_ray.actors.local_ray import launch

    return launch()


def use(begun: dict[str, Any]) -> None:
    """Let this process reach the Ray that `begin` began."""
    from dynamo_ray.actors.local_ray import use as use_ray

    use_ray(begun)


def end(begun: dict[str, Any]) -> None:
    """End the Ray that `begin` began, and nothing else."""
    from dynamo_ray.actors.local_ray import end as end_ray

    end_ray(begun)
