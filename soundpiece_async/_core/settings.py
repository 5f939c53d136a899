"""Every setting, its default and its reason, once. All times are seconds, as floats."""

import os
import sys
from collections.abc import Mapping
from ssl import SSLContext
from typing import Literal, TypeVar, cast
from urllib.parse import urlsplit

import attrs

from soundpiece_async._core.errors import SettingsError
from soundpiece_async._core.hosts import is_host
from soundpiece_async._core.redaction import Secret, forget_arguments, forget_members, redact_url, redact_value

T = TypeVar("T")

Verify = Literal["header", "full", "none"]

BASE_URL = "https://api.soundpiece.co"
STORES = ("redis", "rediss", "postgresql", "postgres")
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@attrs.frozen(kw_only=True)
class Limits:
    """Limits on concurrency, file size and speed."""

    submits: int = 16
    """PUTs, and single reads (``refresh``), on the wire."""
    polls: int = 100
    """Long and short polls on the wire (the service's limit is UNKNOWN); more operations than this share them."""
    downloads: int = 8
    """Streams from the output host. At full speed 8 keep the event loop prompt, 32 do not (measured)."""
    in_flight: int = 1000
    """Requests of one ``run_many`` begun and not yet taken by its consumer."""
    max_bytes: int | None = None
    """Bytes one file may have: what announces, or sends, more ends in a DownloadError at once.

    None: what its length makes plausible, by the service and by the file's own header, and a generous margin."""
    min_bytes_per_second: float | None = 1000.0
    """The lowest speed of a download, over windows of ``Timeouts.read`` seconds. None: any speed will do.

    A slower one frees its slot and resumes behind the others, from where it stands. It makes no progress
    meanwhile, so ``RetryPolicy.download_max_elapsed`` ends it."""
    requests_per_second: float | None = None
    """A ceiling on requests to the API; None: unlimited until the service answers 429 (its limit is UNKNOWN)."""

    def __attrs_post_init__(self) -> None:
        for name in ("submits", "polls", "downloads", "in_flight"):
            _check_count(f"limits.{name}", getattr(self, name))
        if self.max_bytes is not None:
            _check_count("limits.max_bytes", self.max_bytes)
        for name in ("requests_per_second", "min_bytes_per_second"):
            if getattr(self, name) is not None:
                _check_positive(f"limits.{name}", getattr(self, name))


@attrs.frozen(kw_only=True)
class Timeouts:
    """Seconds one attempt may take. Time spent in our own queues never counts."""

    connect: float = 10.0
    """Until a connection is established, TLS included."""
    submit: float = 30.0
    """A PUT or a single read as a whole, from connecting to the last byte."""
    poll: float = 35.0
    """The default timeout of a poll, from connecting to the last byte: the service holds a long one for up to 20 s
    (docs/api.md#long-polls), 15 s remain for connecting and transfer. The one poll of ``wait(timeout=0)`` ends after
    ``SINGLE_POLL_SECONDS`` (``_poller.py``), too, queues included."""
    read: float = 30.0
    """Without a byte of a download, and the window of its lowest speed; a download as a whole has no limit."""

    def __attrs_post_init__(self) -> None:
        for field in attrs.fields(Timeouts):
            _check_positive(f"timeouts.{field.name}", getattr(self, field.name))


@attrs.frozen(kw_only=True)
class RetryPolicy:
    """When to stop retrying. A 429 uses no budget, nor does waiting in a queue of ours while the service is up."""

    submit_max_elapsed: float = 300.0
    """Seconds of trying, after which a submit without a usable response is given up. Always with the same key.

    During an outage requests go one at a time, and that wait counts as trying."""
    download_max_elapsed: float = 300.0
    """Seconds without a new byte, pauses included, after which a download gives up. What came is kept.

    The host's ``Retry-After`` is respected; one that is longer than the time left ends the download."""

    def __attrs_post_init__(self) -> None:
        for field in attrs.fields(RetryPolicy):
            seconds = getattr(self, field.name)
            if not _is_number(seconds) or seconds < 0:
                shown = redact_value(seconds)
                raise SettingsError(f"retries.{field.name} must be a number of seconds of at least 0, not {shown}")


def _hide_key(key: str) -> str:
    return _hide(key, "spk_…")


def _hide_password(proxy: str | None) -> str | None:
    return proxy if proxy is None else _hide(proxy, redact_url(str(proxy)))


def _hide(value: T, mask: str) -> T:
    """Return what looks the same but for its repr; what is no text is refused later."""
    return cast("T", Secret(value, mask)) if isinstance(value, str) else value


@forget_members
@attrs.frozen(kw_only=True)
class Settings:
    """The settings of a session. Invalid values raise a ``SettingsError`` here, before any request.

    A key, base URL, proxy or shared store that is not given is read from the environment; None as one of the latter
    two means none.

    Args:
        api_key: ``spk_…``, from the dashboard; never shown in a repr. Not given: ``SOUNDPIECE_API_KEY``.
        base_url: the API's origin; plain ``http`` only for this machine, because every request carries the key. Not
            given: ``SOUNDPIECE_BASE_URL``, or the service's own.
        limits: on concurrency, sizes and speed.
        timeouts: seconds per attempt.
        retries: when to stop retrying.
        verify: ``"header"`` checks that each file has the size that was announced and begins with a FLAC header, and
            does not find damage behind that; ``"full"`` also decodes every frame and compares the MD5 of the audio
            (extra ``verify``); ``"none"`` checks the size only.
        keep_corrupt: keep a file that failed its check, as ``<name>.flac.corrupt``, for inspection.
        validate: check requests against the rules of the API at submit; off, because the service may loosen them.
        confirm_webhooks: read the state with one GET before believing a webhook.
        poll_cost: seconds of detection lag that one more poll has to save. Four times as much halves the polls, and
            doubles the lag, where there are more operations than ``limits.polls`` and no rate limit is known.
        allow_private_outputs: fetch outputs from anywhere. By default only over https if the API is https, and never
            from loopback, link-local and unspecified addresses, or the metadata services of clouds, unless the API is
            on such an address itself.
        shared: the store in which the processes of an account share its rate limit and their results:
            ``redis://host/0``, ``rediss://host/0`` (extra ``redis``) or ``postgresql://host/db`` (extra ``postgres``).
            ``?account=NAME`` in it names the account; without, it is known by its key. None: this process learns the
            rate alone. Not given: ``SOUNDPIECE_SHARED``.
        proxy: an http(s) proxy, such as ``http://user:password@proxy.example:3128``, not used for this machine. What
            goes to https hosts, so the key, is tunnelled. None: none, whatever the environment says. Not given:
            ``SOUNDPIECE_PROXY``.
        ssl_context: for certificates of your own. None: the authorities this machine trusts (``SSL_CERT_FILE``).
    """

    api_key: str = attrs.field(repr=False, factory=lambda: _read_key(os.environ), converter=_hide_key)
    base_url: str = attrs.field(factory=lambda: _read_base_url(os.environ))
    limits: Limits = attrs.field(factory=Limits)
    timeouts: Timeouts = attrs.field(factory=Timeouts)
    retries: RetryPolicy = attrs.field(factory=RetryPolicy)
    verify: Verify = "header"
    keep_corrupt: bool = False
    validate: bool = True
    confirm_webhooks: bool = False
    poll_cost: float = 0.05
    allow_private_outputs: bool = False
    shared: str | None = attrs.field(factory=lambda: _read_shared(os.environ), converter=_hide_password)
    proxy: str | None = attrs.field(factory=lambda: _read_proxy(os.environ), converter=_hide_password)
    ssl_context: SSLContext | None = attrs.field(default=None, repr=False)

    @classmethod
    @forget_arguments
    def from_environ(cls, environ: Mapping[str, str]) -> "Settings":
        """Return settings from another mapping than this process's environment.

        Args:
            environ: has ``SOUNDPIECE_API_KEY`` and optionally ``SOUNDPIECE_BASE_URL``, ``SOUNDPIECE_PROXY`` and
                ``SOUNDPIECE_SHARED``.

        Raises:
            SettingsError: the key is not set, or a value is invalid.
        """
        return cls(
            api_key=_read_key(environ),
            base_url=_read_base_url(environ),
            proxy=_read_proxy(environ),
            shared=_read_shared(environ),
        )

    def __attrs_post_init__(self) -> None:
        _check_key(self.api_key)
        _check_base_url(self.base_url)
        if self.proxy is not None:
            _check_proxy(self.proxy)
        if self.shared is not None:
            _check_shared(self.shared)
        _check_positive("poll_cost", self.poll_cost)
        if self.verify not in ("header", "full", "none"):
            raise SettingsError(f"verify must be 'header', 'full' or 'none', not {redact_value(self.verify)}")
        for name, kind in (
            ("limits", Limits),
            ("timeouts", Timeouts),
            ("retries", RetryPolicy),
            ("keep_corrupt", bool),
            ("validate", bool),
            ("confirm_webhooks", bool),
            ("allow_private_outputs", bool),
        ):
            if not isinstance(getattr(self, name), kind):
                raise SettingsError(f"{name} must be {kind.__name__}, not {redact_value(getattr(self, name))}")
        if not isinstance(self.ssl_context, SSLContext | None):
            raise SettingsError(f"ssl_context must be an ssl.SSLContext, not {type(self.ssl_context).__name__}")
        object.__setattr__(self, "base_url", self.base_url.rstrip("/"))


def _read_key(environ: Mapping[str, str]) -> str:
    key = environ.get("SOUNDPIECE_API_KEY")
    if not key:
        raise SettingsError(
            "no API key: set SOUNDPIECE_API_KEY, or pass Session(api_key=...); keys are made in the dashboard"
        )
    return key


def _read_base_url(environ: Mapping[str, str]) -> str:
    return environ.get("SOUNDPIECE_BASE_URL") or BASE_URL


def _read_proxy(environ: Mapping[str, str]) -> str | None:
    return environ.get("SOUNDPIECE_PROXY") or None


def _read_shared(environ: Mapping[str, str]) -> str | None:
    return environ.get("SOUNDPIECE_SHARED") or None


def _check_key(key: object) -> None:
    """Refuse what cannot be a key, without repeating it (docs/api.md#transport: prefix ``spk_``, the rest UNKNOWN)."""
    if not isinstance(key, str) or not key.startswith("spk_") or len(key) <= len("spk_"):
        raise SettingsError("the API key is malformed: it begins with 'spk_' (its value is not shown here)")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise SettingsError(
            "the API key holds spaces, line breaks or other characters that no key has (check for a stray newline)"
        )


def _check_base_url(url: object) -> None:
    if not isinstance(url, str):
        raise SettingsError(f"base_url must be text, not {redact_value(url)}")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise SettingsError(f"base_url is malformed: {error}") from error
    if parts.scheme not in ("https", "http") or not host:
        raise SettingsError(f"base_url must be an http(s) URL with a host, as {BASE_URL}")
    if not is_host(host):
        raise SettingsError(f"base_url has no usable host: {redact_value(host)}")
    if parts.username is not None or "?" in url or "#" in url:
        raise SettingsError("base_url must have no user, query or fragment")
    if not url.isascii() or not url.isprintable() or " " in url:  # urlsplit quietly drops line breaks
        raise SettingsError("base_url holds spaces, line breaks or letters beyond ASCII (check for a stray newline)")
    if parts.scheme == "http" and host not in LOOPBACK:
        raise SettingsError(
            f"base_url must be https for {host}: every request carries the key (http is for this machine only)"
        )


def _check_proxy(url: object) -> None:
    """Refuse what is no proxy, without repeating it: it may hold a password."""
    try:
        parts = urlsplit(url) if isinstance(url, str) else None
        usable = parts is not None and parts.scheme in ("http", "https") and parts.port != 0
        usable = usable and is_host((parts and parts.hostname) or "")
    except ValueError:
        usable = False
    if not usable:
        raise SettingsError("proxy must be an http(s) URL with a host, as http://proxy.example:3128")


def _check_shared(url: object) -> None:
    """Refuse what names no store, without repeating it: it may hold a password."""
    try:
        parts = urlsplit(url) if isinstance(url, str) else None
        usable = parts is not None and parts.scheme in STORES and parts.port != 0 and bool(parts.hostname)
    except ValueError:
        usable = False
    if not usable:
        raise SettingsError(
            "shared must be the URL of a store, as redis://host/0, rediss://host/0 or postgresql://host/db"
        )


def _is_number(value: object) -> bool:
    """Accept finite numbers that a float can represent."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _check_positive(name: str, value: float) -> None:
    if not _is_number(value) or value <= 0:
        raise SettingsError(f"{name} must be a number above 0, not {redact_value(value)}")


def _check_count(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise SettingsError(f"{name} must be a whole number of at least 1, not {redact_value(value)}")


MARGIN = 20
"""Descriptors left for a journal (4), notes and folders being synced (4), name look-ups, a report, and the program."""
PER_SUBMIT = 2
"""PUTs and single reads; renewals of URLs have as many slots of their own."""
PER_DOWNLOAD = 4


def fit(limits: Limits, *, free: int) -> Limits:
    """Return limits that so many free descriptors are enough for; the same ones when they are enough already."""
    wanted = limits.polls + PER_SUBMIT * limits.submits + PER_DOWNLOAD * limits.downloads
    usable = max(0, free - MARGIN)
    if wanted <= usable:
        return limits
    fitted = {name: max(1, getattr(limits, name) * usable // wanted) for name in ("polls", "submits", "downloads")}
    return attrs.evolve(limits, **fitted)
