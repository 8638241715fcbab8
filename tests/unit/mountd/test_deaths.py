"""What follows from the deaths of servers: a table of cases, for it does nothing else."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from mountd.deaths import HANGS, LONGEST_PAUSE_S, QUICK_S, Death, Deaths, Verdict

QUICK, SLOW = 0.5, 60.0
WHY = "signal 9 (SIGKILL)"
HANG_S = 30.0


def _quick(deaths: Deaths, times: int) -> list[Verdict]:
    return [deaths.note(Death(WHY, lived_s=QUICK), wanted=False) for _ in range(times)]


def test_a_server_that_served_for_long_is_replaced_at_once() -> None:
    deaths = Deaths()
    for count in range(1, 21):
        assert deaths.note(Death(WHY, lived_s=SLOW), wanted=False) is Verdict.START
        assert (deaths.all, deaths.quick_in_row, deaths.pause_s()) == (count, 0, 0.0)
    assert deaths.last == WHY


def test_quick_deaths_cost_nothing_twice_and_then_ever_more() -> None:
    deaths, pauses = Deaths(limit=20), []
    for _ in range(10):
        _quick(deaths, 1)
        pauses.append(deaths.pause_s())
    assert pauses == [0.0, 0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, LONGEST_PAUSE_S, LONGEST_PAUSE_S]


def test_at_the_limit_and_beyond_it_is_given_up() -> None:
    deaths = Deaths(limit=8)
    assert _quick(deaths, 10) == [Verdict.START] * 7 + [Verdict.GIVE_UP] * 3


def test_a_limit_of_one_gives_up_at_the_first() -> None:
    assert _quick(Deaths(limit=1), 1) == [Verdict.GIVE_UP]


def test_one_that_served_for_a_while_ends_the_row() -> None:
    deaths = Deaths(limit=3)
    assert _quick(deaths, 2) == [Verdict.START] * 2
    assert deaths.note(Death(WHY, lived_s=QUICK_S), wanted=False) is Verdict.START
    assert _quick(deaths, 3) == [Verdict.START, Verdict.START, Verdict.GIVE_UP]


def test_one_that_was_ended_on_request_does_not_count_as_quick() -> None:
    deaths = Deaths(limit=2)
    _quick(deaths, 1)
    assert deaths.note(Death(WHY, lived_s=QUICK), wanted=True) is Verdict.START
    assert (deaths.all, deaths.quick_in_row) == (2, 0)


def test_several_in_a_row_that_hang_ask_for_a_new_mount_and_the_count_begins_anew() -> None:
    deaths = Deaths()
    verdicts = [deaths.note(Death(WHY, lived_s=SLOW, hung=True), wanted=False) for _ in range(2 * HANGS)]
    assert verdicts == ([Verdict.START] * (HANGS - 1) + [Verdict.MOUNT_ANEW]) * 2
    assert deaths.hangs == 2 * HANGS


def test_a_hang_that_a_person_ended_is_counted_and_leads_to_nothing() -> None:
    deaths = Deaths()
    assert [deaths.note(Death(WHY, lived_s=SLOW, hung=True), wanted=True) for _ in range(5)] == [Verdict.START] * 5
    assert (deaths.hangs, deaths.hangs_in_row) == (5, 0)


def test_only_one_that_answered_for_longer_than_a_hang_lasts_ends_a_row_of_hangs() -> None:
    deaths = Deaths()
    deaths.note(Death(WHY, lived_s=SLOW, hung=True), wanted=False)
    deaths.note_answer(HANG_S - 1, HANG_S)
    assert deaths.hangs_in_row == 1
    deaths.note_answer(HANG_S, HANG_S)
    assert deaths.hangs_in_row == 0


def test_an_answer_a_second_after_the_start_ends_a_row_of_quick_deaths() -> None:
    deaths = Deaths()
    _quick(deaths, 5)
    deaths.note_answer(QUICK_S / 2, HANG_S)
    assert deaths.quick_in_row == 5
    deaths.note_answer(QUICK_S, HANG_S)
    assert (deaths.quick_in_row, deaths.pause_s()) == (0, 0.0)


@given(st.lists(st.tuples(st.floats(0, 100), st.booleans(), st.booleans())), st.integers(1, 20))
def test_pauses_are_bounded_and_nothing_is_given_up_before_the_limit(
    lives: list[tuple[float, bool, bool]], limit: int
) -> None:
    deaths = Deaths(limit=limit)
    for lived_s, hung, wanted in lives:
        verdict = deaths.note(Death(WHY, lived_s=lived_s, hung=hung), wanted=wanted)
        assert 0.0 <= deaths.pause_s() <= LONGEST_PAUSE_S
        assert verdict is not Verdict.GIVE_UP or deaths.quick_in_row >= limit
    assert deaths.all == len(lives)
    assert deaths.hangs == sum(hung for _lived_s, hung, _wanted in lives)


def test_pauses_never_become_shorter_within_a_row() -> None:
    deaths = Deaths(limit=100)
    pauses = [deaths.pause_s() for _ in range(40) if _quick(deaths, 1)]
    assert all(earlier <= later for earlier, later in itertools.pairwise(pauses))
