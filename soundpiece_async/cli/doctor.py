"""``soundpiece doctor``: checks what a run needs, with advice on each problem."""

import json
import os
import platform
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from importlib.util import find_spec
from typing import Annotated

import anyio
import attrs
from cyclopts import Parameter

from soundpiece_async import Limits, Settings, SettingsError, TransportError
from soundpiece_async._core.redaction import redact_url
from soundpiece_async._core.settings import fit
from soundpiece_async._descriptors import count_open, read_limit
from soundpiece_async._version import __version__
from soundpiece_async.cli.console import DONE, FAILED, pluralize, print_result, translate_advice

EXTRAS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "cli": (("cyclopts", "rich"), "command line"),
    "fast": (("orjson", "uvloop"), "less CPU per request"),
    "obstore": (("obstore",), "saving to S3, Google Cloud Storage or Azure"),
    "postgres": (("psycopg",), "the processes of one account share its limit by Postgres"),
    "redis": (("redis",), "the processes of one account share its limit by Redis or Valkey"),
    "simulator": (("numpy", "soundfile"), "soundpiece simulate and demo"),
    "verify": (("numpy", "soundfile"), "full check of audio files"),
}
"""Packages and purpose of each extra."""
UNKNOWN = "op_doctor"
"""Id of an operation that does not exist."""
TIMEOUT = 15.0
"""Seconds to wait for the response."""
SKEW = 30.0
"""Seconds that a clock may be off: webhooks that seem five minutes old are rejected."""
ENOUGH = 1024
"""Open files that the default limits need."""
STAND_IN = "spk_none"
"""Sent if no key is set: the service responds and rejects it."""


@attrs.frozen(kw_only=True)
class Check:
    """Result of one check.

    Attributes:
        name: of the check.
        ok: True: passed; False: must be corrected; None: a note.
        found: the finding.
        advice: what to do; empty if nothing.
    """

    name: str
    ok: bool | None
    found: str
    advice: str = ""


async def doctor(*, as_json: Annotated[bool, Parameter(name="--json", show_default=False)] = False) -> int:
    """Check the API key, the base URL, the service, the clock, the extras and the open files limit.

    Each finding comes with advice if something is wrong. One request is sent, for an operation that does not exist:
    nothing is created or charged. The key is not printed.

    Exit codes: 0 ready to run; 1 something must be corrected.

    Args:
        as_json: print one JSON object instead.
    """
    checks = [Check(name="version", ok=True, found=f"{__version__} on Python {platform.python_version()}")]
    checks += check_settings()
    checks += await check_service()
    checks += [*check_extras(), check_descriptors()]
    if as_json:
        print_result(json.dumps({"checks": [attrs.asdict(check) for check in checks]}))
    else:
        for line in describe(checks):
            print_result(line)
    return FAILED if any(check.ok is False for check in checks) else DONE


def describe(checks: Iterable[Check]) -> Iterator[str]:
    """Yield a line for each check, and one below it for its advice."""
    marks = {True: "ok", False: "fail", None: "note"}
    for check in checks:
        yield f"{marks[check.ok]:<6}{check.name}: {check.found}"
        if check.advice:
            yield f"{'':<6}{check.advice}"


def check_settings() -> list[Check]:
    """Check the settings from the environment, without a request."""
    try:
        settings = Settings()
    except SettingsError as error:
        advice = "export SOUNDPIECE_API_KEY=spk_..., or without a key run: soundpiece simulate"
        if os.environ.get("SOUNDPIECE_API_KEY"):
            advice = "correct SOUNDPIECE_API_KEY, SOUNDPIECE_BASE_URL or SOUNDPIECE_PROXY, as the message says"
        return [Check(name="settings", ok=False, found=translate_advice(str(error)), advice=advice)]
    proxy = "no proxy" if settings.proxy is None else f"proxy {redact_url(settings.proxy)}"
    return [Check(name="settings", ok=True, found=f"key set, base URL {settings.base_url}, {proxy}")]


async def check_service() -> list[Check]:
    """Request an operation that does not exist, to check the service, the key and the clock."""
    from soundpiece_async._core.wire import ApiRequest  # --help needs no network
    from soundpiece_async._http.client import HttpClient  # it brings aiohttp

    try:
        settings = Settings() if os.environ.get("SOUNDPIECE_API_KEY") else Settings(api_key=STAND_IN)
    except SettingsError:  # reported by check_settings
        return []
    started = anyio.current_time()
    async with HttpClient(settings) as http:
        try:
            response = await http.fetch(
                ApiRequest("GET", f"/v1/create.new_fx?id={UNKNOWN}", None, UNKNOWN), timeout=TIMEOUT
            )
        except TransportError as error:
            advice = f"check the network, SOUNDPIECE_BASE_URL (now {settings.base_url}) and SOUNDPIECE_PROXY"
            return [Check(name="service", ok=False, found=str(error), advice=advice)]
    took = anyio.current_time() - started
    has_key = settings.api_key != STAND_IN
    return [read_status(response.status, seconds=took, has_key=has_key), *read_clock(response.headers.get("date"))]


def read_status(status: int, *, seconds: float, has_key: bool) -> Check:
    """Return the check of a response, which should be 404, after ``seconds``."""
    ok: bool | None = True
    found, advice = f"responds in {seconds * 1000:.0f} ms", ""
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        ok, found = False, f"{found}, with a redirect ({status})"
        advice = "correct SOUNDPIECE_BASE_URL: redirects are not followed with a key"
    elif status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN) and has_key:
        ok, found = False, f"{found}, rejects the key ({status})"
        advice = "check SOUNDPIECE_API_KEY in the dashboard, and the addresses it may be used from"
    elif status == HTTPStatus.TOO_MANY_REQUESTS:
        ok, found = None, f"{found}, rate limit reached ({status})"
        advice = "nothing to do: the rate is learned; all processes of an account share the limit"
    elif status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        ok, found = False, f"{found}, with a server error ({status})"
        advice = "wait: a bulk run retries for an hour, and can be resumed"
    elif has_key:
        found = f"{found}, accepts the key"
    return Check(name="service", ok=ok, found=found, advice=advice)


def read_clock(date: str | None) -> list[Check]:
    """Compare the clock of this machine with a ``Date`` header, if that is valid."""
    try:
        ahead = (datetime.now(UTC) - parsedate_to_datetime(str(date))).total_seconds()
    except (ValueError, TypeError):
        return []
    if abs(ahead) <= SKEW:
        return [Check(name="clock", ok=True, found="in sync with the service")]
    found = f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the service"
    return [
        Check(name="clock", ok=None, found=found, advice="synchronize it with NTP: webhooks that seem old are rejected")
    ]


def check_extras() -> Iterator[Check]:
    """Check which extras are installed."""
    for name, (packages, purpose) in EXTRAS.items():
        missing = [package for package in packages if find_spec(package) is None]
        if missing:
            found = f"not installed ({', '.join(missing)} missing): {purpose}"
            advice = f'python -m pip install "soundpiece-async[{name}]"; in a clone: python -m pip install ".[{name}]"'
            yield Check(name=f"extra {name}", ok=None, found=found, advice=advice)
        else:
            yield Check(name=f"extra {name}", ok=True, found=f"installed: {purpose}")


def check_descriptors() -> Check:
    """Check how many files this process may open."""
    most, used = read_limit(), count_open()
    if most is None:
        return Check(name="open files", ok=True, found="no limit")
    fitted = fit(Limits(), free=most - used)
    found = f"{used} of {pluralize(most, 'file')} open"
    if fitted == Limits():
        return Check(name="open files", ok=True, found=f"{found}: enough for the default limits")
    changes = ", ".join(f"{name}={getattr(fitted, name)}" for name in ("polls", "submits", "downloads"))
    found = f"{found}: limits are reduced ({changes})"
    return Check(name="open files", ok=None, found=found, advice=f"raise the limit: ulimit -n {ENOUGH}")
