"""What the drills believe is tested here: the checkers take a real history, and no altered one.

The history is of real clients and servers over loopback, with a node killed under them. Then one
thing in it is changed, as a bug would have changed it, and the checker that is meant must say so.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from pathlib import Path

import pytest

from dynamo_ray import CONCURRENT
from dynamo_ray.core.settings import Settings
from dynamo_ray.sim.history import FAILED, OK, UNKNOWN, History, Read, Write, decode
from tests.chaos import judging, table
from tests.chaos.drills import SECOND, Drilled, counted
from tests.chaos.recording import Recorder
from tests.server.loopback import Loopback, run, until

DONE = 400


async def recorded(folder: Path) -> History:
    async with Loopback(folder, settings=Settings(partitions=8)) as cluster:
        client, recorder = await cluster.connect(), Recorder("test")
        working = recorder.run(client, "client", own=2, strict=2, shared=2)

        async def story() -> None:
            await until(lambda: len(recorder.history.writes) > DONE // 2, 20)
            await cluster.kill_node("n2")
            await until(lambda: len(recorder.history.writes) > DONE, 20)
            await cluster.start_node("n2", first_start=False)
            recorder.going = False

        await asyncio.gather(working, story())
        keys = {write.key for write in recorder.history.writes}
        await until(lambda: not cluster.hints() and not cluster.differing(keys), 20)
        for key in keys:
            states = cluster.states_of(key).items()
            recorder.history.finals[key] = {name: one for name, one in states if one is not None}
            recorder.history.owners[key] = tuple(cluster.owners_of(key))
    return recorder.history


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> History:
    history: History = run(recorded(tmp_path_factory.mktemp("judging")))
    return history


def last_of(history: History, strict: bool) -> Write:
    """The last acknowledged write of the key of one writer that was written most often."""
    own = [
        w for w in history.writes if w.outcome == OK and w.strict == strict and b"|" not in w.value
    ]
    return own[-1]


def lose_it_everywhere(history: History) -> None:
    del history.finals[last_of(history, True).key]


def lose_it_at_an_owner(history: History) -> None:
    key = last_of(history, True).key
    del history.finals[key][history.owners[key][0]]


def leave_it_at_a_stranger(history: History) -> None:
    key = last_of(history, True).key
    (state, *_) = history.finals[key].values()
    history.finals[key] |= {name: state for name in ("n1", "n2", "n3", "n4", "n5")}


def say_that_it_failed(history: History) -> None:
    last_of(history, True).outcome = FAILED


def change_a_value(history: History) -> None:
    last_of(history, True).value = b"something else"


def show_what_nobody_put(history: History) -> None:
    write = last_of(history, False)
    write.value, write.outcome, write.token = b"something else", UNKNOWN, None


def read_what_was_there_before(history: History) -> None:
    reads = [one for one in history.reads if one.strict and one.key == last_of(history, True).key]
    reads[-1].state = reads[0].state


def read_nothing(history: History) -> None:
    last = last_of(history, True)
    [one for one in history.reads if one.key == last.key][-1].state = None


def give_a_read_a_later_context(history: History) -> None:
    reads = [one for one in history.reads if one.key == last_of(history, True).key and one.state]
    reads[0].token = reads[-1].token


def give_a_put_a_later_context(history: History) -> None:
    last = last_of(history, True)
    writes = [one for one in history.writes if one.key == last.key and one.outcome == OK]
    writes[0].token = last.token


def tell_two_puts_the_same(history: History) -> None:
    last = last_of(history, True)
    *_, before = (w for w in history.writes if w.key == last.key and w.token and w is not last)
    last.token, last.context = before.token, before.context


def drop_a_sibling(history: History) -> None:
    """The last put did not see what was there, and yet nothing else is there."""
    last = last_of(history, True)
    last.context = CONCURRENT


def drop_an_element(history: History) -> None:
    """An acknowledged write added something that is nowhere."""
    write = next(one for one in history.writes if one.key in history.styles and one.outcome == OK)
    assert write.value is not None
    write.value += b",+never seen again"


CHANGES: list[tuple[Callable[[History], None], str]] = [
    (lose_it_everywhere, "nothing_lost"),
    (lose_it_at_an_owner, "copies_equal"),
    (leave_it_at_a_stranger, "copies_equal"),
    (say_that_it_failed, "nothing_invented"),
    (change_a_value, "nothing_invented"),
    (show_what_nobody_put, "nothing_invented"),
    (read_what_was_there_before, "reads_see_writes"),
    (read_nothing, "reads_see_writes"),
    (give_a_read_a_later_context, "contexts_sound"),
    (give_a_put_a_later_context, "no_breach"),
    (tell_two_puts_the_same, "no_breach"),
    (drop_a_sibling, "siblings_sound"),
    (drop_an_element, "elements_kept"),
]


def test_a_real_history_is_sound(real: History) -> None:
    """And says something: there were siblings, and most of its writes were acknowledged."""
    history = copy.deepcopy(real)
    found = [one for one in judging.judged(history).values() if not one.ok]
    assert found == []
    acknowledged = [write for write in history.writes if write.outcome == OK]
    assert len(acknowledged) > DONE * 0.9
    assert len(history.mints) >= len(acknowledged)
    states = [decode(read.state) for read in history.reads if read.state]
    assert any(len(state.versions) > 1 for state in states)


@pytest.mark.parametrize("change, checker", CHANGES, ids=lambda one: getattr(one, "__name__", one))
def test_an_altered_history_is_not(
    real: History, change: Callable[[History], None], checker: str
) -> None:
    history = copy.deepcopy(real)
    change(history)
    assert not judging.judged(history)[checker].ok


def test_what_is_counted() -> None:
    """Sloppy requests from the fault on; a gap is a time in which a worker had no good answer."""
    history = History()
    times = [
        (0.1, 0.2, OK),
        (1.1, 1.2, OK),
        (1.3, 1.4, FAILED),
        (1.5, 3.2, UNKNOWN),
        (3.3, 3.4, OK),
    ]
    for number, (began, ended, outcome) in enumerate(times):
        us = int(began * SECOND), int(ended * SECOND)
        history.writes.append(
            Write(number, "w", b"k", b"v", None, b"", 0, 2, False, us[0], us[1], outcome)
        )
        history.reads.append(Read("r", b"k", 2, True, us[0], us[1], outcome))
    drilled = counted("fault", history, 1 * SECOND, 3 * SECOND)
    assert (drilled.puts, drilled.puts_failed, drilled.puts_unknown) == (4, 1, 1)
    assert (drilled.gets, drilled.gets_failed, drilled.strict_failed) == (0, 0, 2)
    assert drilled.longest_gap_s == 2.2


def test_the_table_in_a_page_is_written_anew(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- chaos:begin -->\nold\n<!-- chaos:end -->\nafter\n")
    table.rewrite(page, [Drilled("something broke", puts=1234, detected_s=0.5)])
    text = page.read_text()
    assert text.startswith("before\n<!-- chaos:begin -->\n") and text.endswith("after\n")
    assert "old" not in text
    assert "| something broke | 0 s | 1,234 | 0 |" in text and "| 0.5 s | – | 0 |" in text
