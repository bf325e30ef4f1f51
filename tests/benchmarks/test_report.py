"""The arithmetic of the benchmarks: percentiles, pairing by round, pooling, and the closed loop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import report, workloads
from benchmarks.report import Round


def a_round(milliseconds: Sequence[float], elapsed_s: float = 1.0, keys: int = 1) -> Round:
    return Round(tuple(ms / 1000 for ms in milliseconds), elapsed_s, keys)


def flat(milliseconds: float, calls: int) -> Round:
    return a_round([milliseconds] * calls, elapsed_s=calls * milliseconds / 1000)


class TestPercentile:
    def test_is_a_latency_that_was_seen(self) -> None:
        assert report.percentile([float(n) for n in range(1, 101)], 500) == 50.0
        assert report.percentile([float(n) for n in range(1, 101)], 990) == 99.0
        assert report.percentile([float(n) for n in range(1, 1001)], 999) == 999.0

    def test_does_not_ask_for_sorted_latencies(self) -> None:
        assert report.percentile([3.0, 1.0, 2.0], 500) == 2.0

    @pytest.mark.parametrize(("calls", "thousandths"), [(0, 500), (99, 990), (999, 999)])
    def test_is_not_given_where_it_would_be_the_maximum(self, calls: int, thousandths: int) -> None:
        assert report.percentile([1.0] * calls, thousandths) is None

    @given(st.lists(st.floats(0, 10), min_size=2), st.sampled_from([500, 990, 999]))
    def test_leaves_the_promised_share_at_or_below_it(
        self, latencies: list[float], thousandths: int
    ) -> None:
        found = report.percentile(latencies, thousandths)
        if found is not None:
            below = sum(latency <= found for latency in latencies)
            strictly_below = sum(latency < found for latency in latencies)
            assert below * 1000 >= thousandths * len(latencies)
            assert strictly_below * 1000 < thousandths * len(latencies)


class TestFigure:
    def test_is_the_median_over_rounds(self) -> None:
        rounds = [flat(ms, 10) for ms in (1.0, 9.0, 2.0)]
        assert report.figure(rounds, rounds, "p50_ms") == (2.0, 1.0, False)

    def test_ratios_are_taken_round_by_round(self) -> None:
        """Neighbours slowed both in the second round, and us alone in the third."""
        baseline = [flat(1.0, 10), flat(4.0, 10), flat(2.0, 10)]
        rounds = [flat(2.0, 10), flat(8.0, 10), flat(10.0, 10)]
        assert report.figure(rounds, baseline, "p50_ms").ratio == pytest.approx(2.0)

    def test_pools_rounds_that_are_too_short_for_the_percentile(self) -> None:
        found = report.figure([flat(4.0, 60)] * 2, [flat(2.0, 1000)] * 2, "p99_ms")
        assert (found.value, found.pooled) == (4.0, True)
        assert found.ratio == pytest.approx(2.0)

    def test_stays_empty_where_even_all_rounds_are_too_few(self) -> None:
        found = report.figure([flat(4.0, 60)] * 2, [flat(2.0, 2000)] * 2, "p999_ms")
        assert found == (None, None, True)

    def test_a_short_baseline_does_not_change_the_value(self) -> None:
        found = report.figure([flat(4.0, 1000)] * 2, [flat(2.0, 60)] * 2, "p99_ms")
        assert (found.value, found.pooled) == (4.0, False)
        assert found.ratio == pytest.approx(2.0)

    def test_throughput_counts_keys_not_calls(self) -> None:
        assert a_round([1.0] * 5, elapsed_s=0.5, keys=1000).keys_per_s == 10_000


class TestSpread:
    def test_is_the_median_and_how_far_rounds_lie_apart(self) -> None:
        shown = report.spread([1.0, 1.4, 1.1, 1.3, 1.2])
        assert shown == "1.20 (half of the rounds 1.10 … 1.30, all 1.00 … 1.40)"

    def test_of_one_round_is_that_round(self) -> None:
        assert report.spread([39.24], 1) == "39.2 (half of the rounds 39.2 … 39.2, all 39.2 … 39.2)"

    def test_of_no_round_is_nothing(self) -> None:
        assert report.spread([]) == "–"


class TestPage:
    results = {
        ("put", "b"): [flat(2.0, 200)] * 3,
        ("put", "floor"): [flat(1.0, 200)] * 3,
        ("get", "floor"): [flat(1.0, 200)] * 3,
    }

    def test_lines_come_in_the_order_of_the_page_with_ratios_to_the_baseline(self) -> None:
        lines = report.summarise(self.results, "floor")
        lines = report.ordered(lines, ["put", "get"], ["floor", "b"])
        named = [(line["workload"], line["contestant"]) for line in lines]
        assert named == [("put", "floor"), ("put", "b"), ("get", "floor")]
        assert lines[1]["figures"]["p50_ms"]["ratio"] == pytest.approx(2.0)
        assert lines[1]["figures"]["keys_per_s"]["ratio"] == pytest.approx(0.5)

    def test_without_the_baseline_each_is_its_own(self) -> None:
        (line,) = report.summarise({("put", "b"): self.results["put", "b"]}, "floor")
        assert line["figures"]["p50_ms"]["ratio"] == 1.0

    def test_every_line_becomes_a_row(self) -> None:
        assert report.table(report.summarise(self.results, "floor"), "floor").row_count == 3 + len(
            {"put", "get"}
        )

    def test_json_holds_every_round(self, tmp_path: Path) -> None:
        path = tmp_path / "run.json"
        report.save(path, report.summarise(self.results, "floor"), {"cpus": 2})
        found: dict[str, Any] = json.loads(path.read_text())
        assert found["cpus"] == 2
        assert [len(line["rounds"]) for line in found["results"]] == [3, 3, 3]

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (None, "–"),
            (0.21, "0.210"),
            (2.346, "2.35"),
            (15.07, "15.1"),
            (239.7, "240"),
            (27_345.0, "27,300"),
            (1_317_000.0, "1,320,000"),
        ],
    )
    def test_numbers_have_three_digits(self, value: float | None, text: str) -> None:
        assert report.number(value) == text


class Twin:
    """A contestant that is a dict, and counts how many of its calls overlap."""

    in_flight = 1
    verbs: Sequence[str] = workloads.VERBS

    def __init__(self, name: str) -> None:
        self.name = name
        self.map: dict[bytes, bytes] = {}
        self.inside = self.most_inside = self.puts = 0
        self.turns: list[str] = []

    async def start(self) -> None: ...
    async def close(self) -> None: ...

    async def put(self, key: bytes, value: bytes) -> None:
        self.puts += 1
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        await asyncio.sleep(0)
        self.map[key] = value
        self.inside -= 1

    async def get(self, key: bytes) -> bytes | None:
        self.turns.append(self.name)
        return self.map.get(key)

    async def put_many(self, mapping: Mapping[bytes, bytes]) -> None:
        self.map.update(mapping)

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self.map.get(key) for key in keys]


class Forgetful(Twin):
    async def put(self, key: bytes, value: bytes) -> None: ...


class TestRounds:
    space = workloads.Keyspace(keys=2000)

    def test_keys_and_values_have_their_sizes_and_the_seed_decides_them(self) -> None:
        again = workloads.Keyspace(keys=2000)
        assert {len(key) for key in self.space.keys} == {16}
        assert {len(value) for value in self.space.values} == {100}
        assert (again.keys, again.values) == (self.space.keys, self.space.values)
        assert [len(batch) for batch in self.space.batches] == [1000, 1000]

    def test_a_loop_keeps_so_many_in_flight_and_stops_at_its_count(self) -> None:
        twin = Twin("a")
        put = workloads.call_of(twin, "put", self.space)
        latencies, _ = asyncio.run(workloads.closed_loop(put, 8, 100, seconds=60))
        assert (len(latencies), twin.puts, twin.most_inside) == (100, 100, 8)

    def test_a_loop_stops_at_its_limit(self) -> None:
        async def slow(_: int) -> None:
            await asyncio.sleep(0.01)

        latencies, elapsed = asyncio.run(workloads.closed_loop(slow, 2, 300, seconds=0.05))
        assert 2 <= len(latencies) <= 12
        assert elapsed >= 0.05

    def test_a_second_pass_over_the_keys_puts_other_values(self) -> None:
        twin = Twin("a")
        put = workloads.call_of(twin, "put", self.space)

        async def two_passes() -> tuple[dict[bytes, bytes], dict[bytes, bytes]]:
            await workloads.closed_loop(put, 1, 2000, 60)
            first = dict(twin.map)
            for number in range(2000, 4000):
                await put(number)
            return first, dict(twin.map)

        first, second = asyncio.run(two_passes())
        assert all(first[key] != second[key] for key in first)

    def test_contestants_take_turns_and_each_round_begins_with_another(self) -> None:
        turns: list[str] = []
        twins = [Twin(name) for name in "abc"]
        for twin in twins:
            twin.turns = turns
        get = workloads.Workload("get", 1, calls=1, warm_up=0)
        taken = asyncio.run(workloads.compare(twins, [get], self.space, rounds=3, seconds=1))
        assert "".join(turns) == "abc" + "bca" + "cab"
        assert {len(rounds) for rounds in taken.values()} == {3}

    def test_who_lacks_a_verb_sits_out(self) -> None:
        twin, other = Twin("a"), Twin("b")
        other.verbs = ("put_many",)
        get = workloads.Workload("get", 1, calls=1, warm_up=0)
        taken = asyncio.run(
            workloads.compare([twin, other], [get], self.space, rounds=1, seconds=1)
        )
        assert [contestant for _, contestant in taken] == ["a"]

    def test_what_is_no_store_is_not_measured(self) -> None:
        asyncio.run(workloads.load_and_check(Twin("honest"), self.space))
        with pytest.raises(AssertionError, match="forgetful does not give back"):
            asyncio.run(workloads.load_and_check(Forgetful("forgetful"), self.space))
