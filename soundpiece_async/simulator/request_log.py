"""The log of received requests, and the server's statistics."""

from collections.abc import Mapping
from typing import Any

import attrs


@attrs.define(eq=False, kw_only=True)
class ReceivedRequest:
    """One request as it arrived; what is not known yet is filled in as it is answered.

    `arrived` is the loop's time and `held` the seconds until the response was sent or the client had gone, both in real
    seconds. `status` stays None when nothing was answered. `authorized` says that an Authorization header was there at
    all, valid or not. `json` is the decoded body, None without one. `sent` counts the bytes of the response, and
    `earlier` the requests before this one with the same method for the same key, operation or file.
    """

    host: str
    method: str
    path: str
    arrived: float
    headers: Mapping[str, str] = attrs.field(repr=False)
    query: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    route: str | None = None
    key: str | None = None
    operation: str | None = None
    wait: bool = False
    earlier: int = 0
    body: bytes = attrs.field(default=b"", repr=False)
    json: Any = attrs.field(default=None, repr=False)
    held: float | None = None
    status: int | None = None
    fault: str | None = None
    sent: int = 0

    @property
    def authorized(self) -> bool:
        """Whether an Authorization header was there."""
        return "Authorization" in self.headers

    @property
    def user_agent(self) -> str | None:
        """The User-Agent header."""
        return self.headers.get("User-Agent")

    @property
    def range(self) -> str | None:
        """The Range header."""
        return self.headers.get("Range")

    @property
    def if_range(self) -> str | None:
        """The If-Range header."""
        return self.headers.get("If-Range")


@attrs.frozen(kw_only=True)
class ServerStatistics:
    """Counts since the simulator was opened; `faults` by the name of the fault."""

    operations: int
    processing: int
    ready: int
    failed: int
    replays: int
    submits: int
    polls: int
    open_requests: int
    peak_polls: int
    downloads: int
    bytes_sent: int
    rate_limited: int
    faults: Mapping[str, int]
    webhooks_sent: int
    webhooks_delivered: int
    webhooks_lost: int
    webhooks_withheld: int
