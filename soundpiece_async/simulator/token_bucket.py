"""The account's rate limit: a token bucket (docs/api.md#rate-limits; its true size and window are unknown)."""

import math

import attrs


@attrs.define(eq=False, kw_only=True)
class TokenBucket:
    """Allows `rate` requests a second, and `burst` at once after a pause; without a rate it allows all.

    Times are real seconds: a limit counts what the wire carries, whatever the simulator's speed.
    """

    rate: float | None
    burst: float
    tokens: float = attrs.field(init=False)
    filled: float = attrs.field(init=False, default=-math.inf)

    def __attrs_post_init__(self) -> None:
        self.tokens = self.burst

    def take(self, *, now: float) -> int:
        """Consume a token and return 0, or return the whole seconds, at least 1, until the next one."""
        if self.rate is None:
            return 0
        if now > self.filled:
            self.tokens = min(self.burst, self.tokens + (now - self.filled) * self.rate)
            self.filled = now
        if self.tokens >= 1:
            self.tokens -= 1
            return 0
        return max(1, math.ceil((1 - self.tokens) / self.rate))
