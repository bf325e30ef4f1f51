"""How many rounds it takes until all members know what one of them learnt. A simulation.

    python -m benchmarks.gossip

Of n members one learns that a slot has changed hands. In a round (a second in a cluster) each
exchanges digests with one other, drawn by chance, and tells news to FAN_OUT others, some of which
get lost. Told are the rounds until all know, with rumours and by digests alone, beside log2 n, and
what a member sends in a round while nothing is new. The machines are those of the servers.
"""

from __future__ import annotations

import argparse
import math
import random
from statistics import median

import msgpack

from dynamo_ray.core.gossip import FAN_OUT, Gossip, Known, News
from dynamo_ray.core.membership import NODE_ROLE, Fact, Slot, View, merge_views

SIZES = (10, 30, 100, 300, 1000)
ROUNDS_MAX = 100


class Talker:
    """A member and what it knows."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.machine = Gossip(view)

    def learn(self, view: View) -> None:
        merged = merge_views(self.view, view)
        if merged is not self.view:
            self.view = merged
            self.machine.on_view(merged)

    def exchange(self, other: Talker) -> tuple[Known, News | None]:
        """Both know what either knew; the answer and the news that travelled."""
        known = other.machine.on_digests(self.machine.digests)
        self.learn(known.view)
        news = self.machine.on_known(known)
        if news is not None:
            other.learn(news.view)
        return known, news


def founded(count: int) -> View:
    ids = [number.to_bytes(8, "big") for number in range(count)]
    return View().with_facts(
        Fact(b"i" * 14, 0, one, NODE_ROLE, f"n{at}", "10.0.0.1", 7400) for at, one in enumerate(ids)
    )


def rounds(view: View, chance: random.Random, fan_out: int, loss: float) -> tuple[int, int]:
    """Until all know what one learnt; and the bytes of an exchange when nothing is new."""
    everybody = [Talker(view) for _ in view.facts]
    everybody[0].learn(View(slots={0: Slot(1, everybody[0].view.to_rows()[0][0][2])}))
    for number in range(1, ROUNDS_MAX):
        for one in chance.sample(everybody, len(everybody)):
            news = one.machine.take_news()
            if news is not None:
                for other in chance.sample(everybody, min(fan_out, len(everybody))):
                    if chance.random() >= loss:
                        other.learn(news.view)
            if chance.random() >= loss:
                one.exchange(chance.choice(everybody))
        if all(one.view == everybody[0].view for one in everybody):
            shown = everybody[0].machine.digests
            known, _ = everybody[0].exchange(everybody[-1])
            idle = (shown.digests, known.buckets, known.view.to_rows())
            return number, len(msgpack.packb(idle))
    raise SystemExit(f"not all of {len(everybody)} know after {ROUNDS_MAX} rounds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--loss", type=float, default=0.1, help="share of messages that get lost")
    given = parser.parse_args()
    print("| nodes | log2 | rounds, rumours and digests | rounds, digests alone | idle exchange |")
    print("|---|---|---|---|---|")
    for count in SIZES:
        view = founded(count)
        told: dict[int, list[int]] = {FAN_OUT: [], 0: []}
        for fan_out, of in told.items():
            for seed in range(given.seeds):
                number, idle = rounds(view, random.Random(seed), fan_out, given.loss)
                of.append(number)
        cells = [f"{median(of):g} (at most {max(of)})" for of in told.values()]
        print(f"| {count:,} | {math.log2(count):.1f} | {cells[0]} | {cells[1]} | {idle:,} bytes |")


if __name__ == "__main__":
    main()
