"""How often something may happen, with a clock that is turned by hand."""

from hypothesis import given
from hypothesis import strategies as st

from schemas.rates import Rate, Rates, TokenBucket

RATE = Rate(burst=3, per_s=2.0)


def test_a_burst_and_then_so_many_a_second() -> None:
    bucket = TokenBucket(RATE)
    assert [bucket.take(10.0) for _ in range(4)] == [True, True, True, False]
    assert bucket.wait_s(10.0) == 0.5
    assert (bucket.take(10.4), bucket.take(10.5), bucket.take(10.5)) == (False, True, False)
    assert [bucket.take(1000.0) for _ in range(4)] == [True, True, True, False]


@given(st.lists(st.floats(0, 5), max_size=60))
def test_never_more_than_the_rate_allows(gaps_s: list[float]) -> None:
    bucket, now_s, taken = TokenBucket(RATE), 0.0, 0
    for gap_s in gaps_s:
        now_s += gap_s
        taken += bucket.take(now_s)
        assert taken <= RATE.burst + RATE.per_s * now_s + 1e-6


def test_names_are_apart_and_many_fill_no_memory() -> None:
    rates = Rates(RATE)
    assert [rates.take("a", 0.0) for _ in range(4)] == [True, True, True, False]
    assert (rates.wait_s("a", 0.0), rates.wait_s("b", 0.0), rates.take("b", 0.0)) == (0.5, 0.0, True)
    for number in range(5000):
        rates.take(f"n{number}", 0.0)
    assert len(rates) < 5000
