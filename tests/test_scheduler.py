"""Lanes stay full, what is done now and then takes a share of the time: on a clock of our own."""

from golf_opt.engines.scheduler import Scheduler
from golf_opt.utils.pace import Pace


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_every_free_lane_is_filled_until_there_is_no_more() -> None:
    jobs = iter("abc")
    scheduler: Scheduler[str] = Scheduler(4, Clock())
    assert list(scheduler.fill(lambda lane: next(jobs, None))) == [(0, "a"), (1, "b"), (2, "c")]
    assert scheduler.busy == [(0, "a"), (1, "b"), (2, "c")]
    assert scheduler.release(1) == "b"
    assert list(scheduler.fill(lambda lane: f"d{lane}")) == [(1, "d1"), (3, "d3")]
    assert scheduler.busy == [(0, "a"), (1, "d1"), (2, "c"), (3, "d3")]


def test_waiting_is_the_time_between_a_run_and_the_next() -> None:
    clock = Clock()
    scheduler: Scheduler[str] = Scheduler(2, clock)

    def slow(lane: int) -> str:
        clock.now += 1.0
        return "job"

    list(scheduler.fill(slow))  # at 1 s and at 2 s
    assert scheduler.waiting == (3 / 4, 3.0)
    clock.now = 10.0
    scheduler.release(1)
    clock.now = 12.0
    assert scheduler.waiting == (3 / 24, 3.0)  # what is not taken again has nothing to wait for
    list(scheduler.fill(slow))
    assert scheduler.waiting == (6 / 26, 6.0)


def test_what_takes_longer_is_done_less_often() -> None:
    clock = Clock()
    pace = Pace(3.0, fraction=0.1, clock=clock)
    assert pace.is_due
    with pace:
        clock.now += 0.1
    clock.now = 3.0
    assert not pace.is_due
    clock.now = 3.2
    assert pace.is_due
    with pace:
        clock.now += 2.0
    clock.now += 19.0
    assert not pace.is_due
    clock.now += 2.0
    assert pace.is_due
