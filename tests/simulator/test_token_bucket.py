"""The account's rate limit, a token bucket."""

from hypothesis import given
from hypothesis import strategies as st

from soundpiece_async.simulator.token_bucket import TokenBucket


class TestBucket:
    """The rate limit is a token bucket."""

    def test_lets_everything_pass_without_a_rate(self) -> None:
        """Without a rate nothing is refused."""
        bucket = TokenBucket(rate=None, burst=1.0)
        assert [bucket.take(now=0.0) for _ in range(9)] == [0] * 9

    def test_refuses_in_whole_seconds(self) -> None:
        """A refused request hears the whole seconds, rounded up, after which a token will be there."""
        bucket = TokenBucket(rate=0.4, burst=2.0)

        assert [bucket.take(now=0.0) for _ in range(3)] == [0, 0, 3]
        assert bucket.take(now=2.4) == 1
        assert bucket.take(now=2.5) == 0
        assert bucket.take(now=2.0) == 3

    @given(
        st.lists(st.floats(0, 1), min_size=1, max_size=80),
        st.floats(0.5, 50),
        st.floats(1, 20),
    )
    def test_never_lets_more_pass(self, gaps: list[float], rate: float, burst: float) -> None:
        """In no stretch of time do more requests pass than the burst and what the rate adds."""
        bucket, now, passed = TokenBucket(rate=rate, burst=burst), 0.0, []
        for gap in gaps:
            now += gap
            if bucket.take(now=now) == 0:
                passed.append(now)
            else:
                assert passed
        for first in range(len(passed)):
            for last in range(first, len(passed)):
                assert last - first + 1 <= burst + rate * (passed[last] - passed[first]) + 1e-6
