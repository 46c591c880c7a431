"""Lanes stay full, and their use is counted, on a clock of our own."""

from golf_opt.scheduler import Scheduler


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_every_free_lane_is_filled_until_there_is_no_more() -> None:
    jobs = iter("abc")
    scheduler: Scheduler[str] = Scheduler(4, Clock())
    assert scheduler.fill(lambda lane: next(jobs, None)) == [(0, "a"), (1, "b"), (2, "c")]
    assert scheduler.lanes == ["a", "b", "c", None]
    assert scheduler.release(1) == "b"
    assert scheduler.fill(lambda lane: f"d{lane}") == [(1, "d1"), (3, "d3")]
    assert scheduler.busy == [(0, "a"), (1, "d1"), (2, "c"), (3, "d3")]


def test_utilisation_is_busy_lane_time_over_lane_time() -> None:
    clock = Clock()
    scheduler: Scheduler[str] = Scheduler(2, clock)
    scheduler.fill(lambda lane: "job" if lane == 0 else None)
    clock.now = 6.0
    assert scheduler.utilisation == 0.5
    scheduler.release(0)
    clock.now = 8.0
    assert scheduler.utilisation == 6 / 16
