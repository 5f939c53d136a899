"""Faults as data: random shares of all requests, and single faults injected into chosen ones.

Rules:

1. A fault strikes BEFORE the request takes effect, or AFTER it did, when only the response is lost or spoilt. The
   difference is what idempotency is for (docs/api.md#idempotency).
2. Shares are drawn from one seeded generator in order of arrival; an injected fault takes precedence over a random one.
3. Bodies are cut by closing the connection in good order, so that exactly the bytes before the cut arrive; resets are
   real ones (RST).
"""

import math
import random
from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from typing import Literal, TypedDict, Unpack, get_args

import attrs

from soundpiece_async.simulator.request_log import ReceivedRequest
from soundpiece_async.simulator.schema import ROUTES
from soundpiece_async.simulator.validators import (
    ERROR_STATUS,
    NOT_EMPTY,
    SECONDS,
    SHARE,
    Rule,
    integer_rule,
    must_be,
    one_of,
    require,
)

HostName = Literal["api", "output"]
HOSTS: tuple[str, ...] = get_args(HostName)


class Fault(StrEnum):
    """A kind of fault."""

    SERVER_ERROR = "server_error"
    """An error as JSON before any effect: 500, or the `status` and `headers` given (403, 307 with a Location, ...)."""
    BAD_GATEWAY = "bad_gateway"
    """502 with a page of HTML, as a proxy writes it, before any effect."""
    GATEWAY_TIMEOUT = "gateway_timeout"
    """504 with a page of HTML, after the request took effect."""
    RATE_LIMITED = "rate_limited"
    """429 before any effect; `seconds` is its Retry-After, which is absent when they are not given."""
    RESET_BEFORE = "reset_before"
    """The connection is reset before any effect."""
    RESET_AFTER = "reset_after"
    """The connection is reset after the request took effect, without a response."""
    STALL = "stall"
    """The response comes `seconds` late; a download stops half way (or `at` a byte) for as long, then goes on."""
    CUT = "cut"
    """The connection is closed after `at` bytes of the body, or half of it."""
    CORRUPT = "corrupt"
    """One byte of the body is wrong: the one `at`, or one drawn by the seed."""
    IGNORE_RANGE = "ignore_range"
    """The output host answers a Range with 200 and the whole file."""
    FAIL = "fail"
    """The operation that this PUT makes will fail; `code` says with which code."""


_CONDITIONS = ("host", "method", "route", "operation")
_ALWAYS = {Fault.FAIL: {"host": "api", "method": "PUT"}, Fault.IGNORE_RANGE: {"host": "output"}}
"""Two faults mean something on one kind of request only."""

BEFORE = frozenset({Fault.SERVER_ERROR, Fault.BAD_GATEWAY, Fault.RATE_LIMITED, Fault.RESET_BEFORE})


@attrs.frozen(kw_only=True)
class Faults:
    """Random faults; shares are from 0 to 1, times in real seconds.

    `server_error`, `bad_gateway`, `reset_before` and `stall` strike requests to both hosts, `gateway_timeout` and
    `reset_after` those to the API, `cut` and `corrupt` downloads. `ignore_range` and `hide_etag` concern the output
    host, which answers an expired URL with `expired_status` (what the service takes is unknown: docs/api.md#downloads).
    `fail` is the share of operations that fail, each with one of `failure_codes`; None leaves the code out
    (docs/api.md#operation-errors).
    """

    server_error: float = attrs.field(default=0.0, validator=SHARE)
    bad_gateway: float = attrs.field(default=0.0, validator=SHARE)
    gateway_timeout: float = attrs.field(default=0.0, validator=SHARE)
    reset_before: float = attrs.field(default=0.0, validator=SHARE)
    reset_after: float = attrs.field(default=0.0, validator=SHARE)
    stall: float = attrs.field(default=0.0, validator=SHARE)
    stall_seconds: float = attrs.field(default=60.0, validator=must_be(*SECONDS))
    cut: float = attrs.field(default=0.0, validator=SHARE)
    corrupt: float = attrs.field(default=0.0, validator=SHARE)
    ignore_range: bool = False
    hide_etag: bool = False
    expired_status: int = attrs.field(default=403, validator=ERROR_STATUS)
    fail: float = attrs.field(default=0.0, validator=SHARE)
    failure_codes: tuple[str | None, ...] = attrs.field(
        default=("internal_error", "simulated_future_code"), validator=NOT_EMPTY
    )

    def __attrs_post_init__(self) -> None:
        for host in HOSTS:
            shares = _shares(self, host)
            if math.fsum(shares.values()) > 1:
                raise ValueError(f"these shares of the requests to the {host} host add up to more than 1: {shares}")


@attrs.frozen(kw_only=True)
class ActiveFault:
    """A fault that strikes one request, and its details; None stands for the fault's own default."""

    fault: Fault
    at: int | None = None
    seconds: float | None = None
    status: int | None = None
    headers: Mapping[str, str] = attrs.field(factory=dict)
    code: str | None = None


class FaultDetails(TypedDict, total=False):
    """Which requests an injected fault strikes, and its details.

    `host`, `method`, `route` and `operation` narrow down the requests, `skip` lets that many of them pass first, and
    `times` (1) is how many are struck. The rest belongs to the single faults, see `Fault`.
    """

    host: HostName | None
    method: str | None
    route: str | None
    operation: str | None
    skip: int
    times: int
    at: int
    seconds: float
    status: int
    headers: Mapping[str, str]
    code: str


@attrs.define(eq=False, kw_only=True)
class PendingFault:
    """An injected fault, waiting for its requests."""

    active: ActiveFault
    conditions: Mapping[str, str]
    skip: int
    times: int

    def take(self, request: ReceivedRequest) -> bool:
        """Return whether the fault strikes this request, and count it if so."""
        if any(getattr(request, name) != value for name, value in self.conditions.items()):
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.times -= 1
        return True


class FaultInjector:
    """Chooses the fault of each request.

    `rng` is the only randomness; nothing is drawn while all shares are 0.
    """

    def __init__(self, faults: Faults, *, rng: random.Random) -> None:
        self.faults = faults
        self.counts: Counter[str] = Counter()
        self._rng = rng
        self._pending: list[PendingFault] = []
        self._shares = {host: _shares(faults, host) for host in HOSTS}

    def __repr__(self) -> str:
        """Show the faults that struck, and how many are pending."""
        return f"<FaultInjector {dict(self.counts)}, {len(self._pending)} waiting>"

    def inject(self, fault: Fault, **details: Unpack[FaultDetails]) -> None:
        """Inject a fault into the next requests that match; earlier injections apply first.

        Raises TypeError or ValueError for what could never strike.
        """
        require(one_of(*Fault), "fault", fault)
        fault = Fault(fault)
        for name, value in details.items():
            _check_detail(fault, name, value)
        conditions = dict(_ALWAYS.get(fault, {}))
        conditions |= {name: value for name in _CONDITIONS if isinstance(value := details.get(name), str)}
        active = ActiveFault(
            fault=fault,
            at=details.get("at"),
            seconds=details.get("seconds"),
            status=details.get("status"),
            headers=details.get("headers", {}),
            code=details.get("code"),
        )
        skip, times = details.get("skip", 0), details.get("times", 1)
        self._pending.append(PendingFault(active=active, conditions=conditions, skip=skip, times=times))

    def choose(self, request: ReceivedRequest) -> ActiveFault | None:
        """Return the fault of a request that has just arrived, or None."""
        active = self._take_pending(request) or self._draw(request)
        if active is not None:
            request.fault = active.fault.value
            self.counts[active.fault.value] += 1
        return active

    def position(self, size: int) -> int:
        """Return a random byte position in a body of `size` bytes."""
        return self._rng.randrange(size)

    def _take_pending(self, request: ReceivedRequest) -> ActiveFault | None:
        for pending in self._pending:
            if pending.take(request):
                if pending.times == 0:
                    self._pending.remove(pending)
                return pending.active
        return None

    def _draw(self, request: ReceivedRequest) -> ActiveFault | None:
        shares = self._shares[request.host]
        if not shares:
            return None
        rng = self._rng.random()
        for fault, share in shares.items():
            rng -= share
            if rng < 0:
                return ActiveFault(fault=fault)
        return None


_RULES: Mapping[str, Rule] = {
    "host": one_of(None, *HOSTS),
    "method": one_of(None, "GET", "PUT", "HEAD", "POST", "PATCH", "DELETE", "OPTIONS"),
    "route": one_of(None, *ROUTES),
    "operation": ("an id or None", lambda value: value is None or isinstance(value, str)),
    "skip": integer_rule(0),
    "times": integer_rule(1),
    "at": integer_rule(0),
    "seconds": SECONDS,
    "status": integer_rule(200, 599),
}


def _check_detail(fault: Fault, name: str, value: object) -> None:
    """Reject a detail that is unknown, or that no request can match: its fault would never strike."""
    if name not in FaultDetails.__annotations__:
        raise TypeError(f"an injected fault has no {name!r}: its details are {', '.join(FaultDetails.__annotations__)}")
    if name in _RULES:
        require(_RULES[name], name, value)
    if name in _ALWAYS.get(fault, {}):
        require(one_of(None, _ALWAYS[fault][name]), f"{name} of {fault}", value)


def _shares(faults: Faults, host: str) -> dict[Fault, float]:
    """Return the shares above 0 that apply to a host."""
    everywhere = (Fault.SERVER_ERROR, Fault.BAD_GATEWAY, Fault.RESET_BEFORE, Fault.STALL)
    own = (Fault.GATEWAY_TIMEOUT, Fault.RESET_AFTER) if host == "api" else (Fault.CUT, Fault.CORRUPT)
    return {fault: share for fault in (*everywhere, *own) if (share := getattr(faults, fault.value)) > 0}
