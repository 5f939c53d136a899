"""The account's rate limit: a token bucket (docs/api.md#rate-limits; its true size and window are unknown)."""

import math

import attrs


@attrs.define(eq=False, kw_only=True)
class TokenBucket:
    """Lets `rate` requests a second pass, and `burst` at once after a pause; without a rate everything passes.

    Times are real seconds: a limit counts what the wire carries, whatever the simulator's speed.
    """

    rate: float | None
    burst: float
    tokens: float = attrs.field(init=False)
    filled: float = attrs.field(init=False, default=-math.inf)

    def __attrs_post_init__(self) -> None:
        self.tokens = self.burst

    def take(self, *, now: float) -> int:
        """Take a token and answer 0, or answer the whole seconds, at least 1, after which there will be one."""
        if self.rate is None:
            return 0
        if now > self.filled:
            self.tokens = min(self.burst, self.tokens + (now - self.filled) * self.rate)
            self.filled = now
        if self.tokens >= 1:
            self.tokens -= 1
            return 0
        return max(1, math.ceil((1 - self.tokens) / self.rate))
