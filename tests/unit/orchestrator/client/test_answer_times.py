"""How long an answer was interrupted, as its reader saw it."""

import pytest

from orchestrator.client.answer_times import AnswerTimes
from orchestrator.commands.answers import statistics
from tests.support.fake_orchestrator import end


def read(*pauses: tuple[float, bool]) -> AnswerTimes:
    """The times of an answer whose first piece came 2 s after the question; then pauses, some of them disturbed."""
    times = AnswerTimes(10.0)
    times.disturbed()
    now_s = 12.0
    times.piece_came(now_s)
    for pause_s, is_disturbed in pauses:
        if is_disturbed:
            times.disturbed()
        now_s += pause_s
        times.piece_came(now_s)
    return times


def test_the_first_piece_is_timed_from_the_question() -> None:
    assert AnswerTimes(10.0).ttft_s is None
    assert read((0.1, False)).ttft_s == 2.0


@pytest.mark.parametrize(
    ("pauses", "expected_s"),
    [
        ([(0.1, False), (3.0, True), (0.1, False), (2.0, True)], 5.0),
        ([(0.1, False), (3.0, False)], 0.0),
        ([(0.1, False), (0.9, True)], 0.0),
        ([(2.0, False), (2.5, True), (2.4, True), (1.9, False)], 0.0),
        ([(3.0, True), (3.1, True)], 0.0),
        ([], 0.0),
    ],
    ids=["restarts", "nothing was said of it", "short", "a slow model", "always overdue", "one piece"],
)
def test_a_pause_counts_when_it_was_disturbed_and_long(pauses: list[tuple[float, bool]], expected_s: float) -> None:
    assert read(*pauses).interrupted_s == pytest.approx(expected_s)


def test_people_are_told_of_an_interruption() -> None:
    assert "2 tokens in 0.750 s, 3.2 s of it interrupted, 2.0 tokens/s" in statistics(end("r"), 3.21)
