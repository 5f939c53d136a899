"""A simulated API: its world, two hosts and webhooks, opened and closed together."""

import base64
import random
import time
from collections.abc import Mapping
from email.utils import formatdate
from functools import partial
from types import TracebackType
from typing import Self, Unpack

import aiohttp
import anyio
import attrs
from attrs.validators import instance_of, optional

from soundpiece_async.simulator import validators
from soundpiece_async.simulator.api_routes import Api
from soundpiece_async.simulator.clock import Clock
from soundpiece_async.simulator.faults import Fault, FaultDetails, FaultInjector, Faults
from soundpiece_async.simulator.http_server import Host, HttpServer, RequestHook
from soundpiece_async.simulator.lifetime import ServerLifetime, listen, make_reachable, share_host
from soundpiece_async.simulator.music import AudioOptions
from soundpiece_async.simulator.operations import OperationError, ServerOperation
from soundpiece_async.simulator.output_host import OutputHost
from soundpiece_async.simulator.render_cache import RenderCache
from soundpiece_async.simulator.request_log import ReceivedRequest, ServerStatistics
from soundpiece_async.simulator.signed_urls import Signer
from soundpiece_async.simulator.token_bucket import TokenBucket
from soundpiece_async.simulator.variations import Variations, read_variations
from soundpiece_async.simulator.webhooks import Event, WebhookAttempt, WebhookSender, write_event
from soundpiece_async.simulator.world import Durations, World

_HOLD = 20.0
"""Seconds a `wait=true` is held at most (docs/api.md#long-polls)."""


@attrs.define(eq=False, kw_only=True, repr=False)
class Simulator:
    """A simulated Soundpiece API on the loopback interface: `async with Simulator(speed=100) as sim`, at `sim.url`.

    It may be entered and exited in different tasks, and only once; while it is open, any thread may use it. Its
    responses follow from `seed` and the requests, see `world`. It never connects to anything outside private networks.

    Attributes:
        seed: Random seed of everything: processing times, failures, audio, keys.
        speed: Divides processing times, the 20 s of a long poll and the pauses between webhook attempts; nothing else.
        faults: Random faults by share of requests, see `Faults`; `inject` adds single faults to chosen requests.
        api_key: The account's only API key; by default derived from the seed.
        requests_per_second: The account's rate limit, in real seconds; None: no limit.
        burst: How many requests may come at once under that limit; default: those of one second.
        credits: How many operations may be created before 402; None: any number.
        url_lifetime: Real seconds until a signed URL expires.
        stable_paths: Whether a URL keeps its path when it is signed again.
        track_seconds: The shortest and the longest song, instrumental or foreign source, in seconds of audio.
        n_variations: Number of outputs of a new song or instrumental.
        durations: Processing times by route in seconds, to be divided by `speed`: a mapping, or a callable given the
            route's name. `math.inf` leaves operations to `finish`. By default realistic and seeded.
        variations: Behaviour that the documentation of the service leaves open, as `{"echo": "strip"}` or
            `["echo=strip", "status=done", "status=upper"]`. The page on testing lists them.
        forward: Whether responses have fields, a status and a stem that no client knows, as a later version might.
        clock_skew: Seconds by which its wall clock is ahead: in `created_at`, `expires_at`, and the Date header.
        download_rate: Maximum bytes per real second of each download.
        webhook_secret: The signing secret, or several during rotation; None: no webhooks are sent.
        webhook_attempts: Maximum number of attempts per webhook.
        webhook_timeout: Real seconds in which a receiver must respond.
        webhook_loss: Share of webhooks that are never sent.
        webhook_duplicates: Share of webhooks that are delivered twice.
        allow_private_callbacks: Whether callback URLs may have loopback and other private hosts, and plain http. Those
            of public hosts are always accepted and never called.
        callback_url: Receives the webhooks of operations submitted without a callback URL.
        on_request: Called with each `ReceivedRequest` before it takes effect, and awaited if it is async.
        cache_bytes: Maximum bytes of rendered audio in the cache.
        host: The interface to listen on; "0.0.0.0" for all, as in a container.
        port: The port of the API; 0 for any free one.
        output_port: The port of the output host; 0 for any free one.
        public_url: The API's URL for clients, when it differs: a mapped port, or a TLS proxy.
        public_output_url: The same for the output host; default: that of `public_url`, with `output_port`.

    """

    seed: int = 0
    speed: float = attrs.field(default=1.0, validator=validators.POSITIVE_FINITE)
    faults: Faults = attrs.field(factory=Faults, validator=instance_of(Faults))
    api_key: str = attrs.field(
        default=attrs.Factory(lambda self: _make_api_key(self.seed), takes_self=True), validator=validators.TEXT
    )
    requests_per_second: float | None = attrs.field(default=None, validator=optional(validators.POSITIVE))
    burst: float | None = attrs.field(default=None, validator=optional(validators.BURST))
    credits: int | None = attrs.field(default=None, validator=optional(validators.SIZE))
    url_lifetime: float = attrs.field(default=900.0, validator=validators.POSITIVE_FINITE)
    stable_paths: bool = True
    track_seconds: tuple[float, float] = attrs.field(default=(8.0, 20.0), validator=validators.SPAN)
    n_variations: int = attrs.field(default=2, validator=validators.COUNT)
    durations: Durations = attrs.field(default=None, validator=validators.check_durations)
    variations: Variations = attrs.field(factory=Variations, converter=read_variations)
    forward: bool = False
    clock_skew: float = attrs.field(default=0.0, validator=validators.FINITE)
    download_rate: float | None = attrs.field(default=None, validator=optional(validators.POSITIVE))
    webhook_secret: str | tuple[str, ...] | None = attrs.field(
        default=attrs.Factory(lambda self: _make_webhook_secret(self.seed), takes_self=True)
    )
    webhook_attempts: int = attrs.field(default=4, validator=validators.COUNT)
    webhook_timeout: float = attrs.field(default=10.0, validator=validators.POSITIVE)
    webhook_loss: float = attrs.field(default=0.0, validator=validators.SHARE)
    webhook_duplicates: float = attrs.field(default=0.0, validator=validators.SHARE)
    allow_private_callbacks: bool = False
    callback_url: str | None = attrs.field(default=None, validator=optional(validators.TEXT))
    on_request: RequestHook | None = attrs.field(default=None, validator=optional(validators.CALLABLE))
    cache_bytes: int = attrs.field(default=64 << 20, validator=validators.SIZE)
    host: str = "127.0.0.1"
    port: int = attrs.field(default=0, validator=validators.PORT)
    output_port: int = attrs.field(default=0, validator=validators.PORT)
    public_url: str | None = attrs.field(default=None, validator=optional(validators.ORIGIN))
    public_output_url: str | None = attrs.field(default=None, validator=optional(validators.ORIGIN))
    url: str = attrs.field(default="", init=False)
    output_url: str = attrs.field(default="", init=False)
    _world: World = attrs.field(init=False)
    _clock: Clock = attrs.field(init=False)
    _http_server: HttpServer = attrs.field(init=False)
    _api: Api = attrs.field(init=False)
    _output_host: OutputHost = attrs.field(init=False)
    _webhook_sender: WebhookSender = attrs.field(init=False)
    _lifetime: ServerLifetime = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._world = World(
            seed=self.seed,
            signer=Signer(
                secret=_rng(self.seed, "signer").randbytes(32), lifetime=self.url_lifetime, stable=self.stable_paths
            ),
            faults=self.faults,
            audio_options=AudioOptions(track_seconds=self.track_seconds, n_variations=self.n_variations),
            variations=self.variations,
            forward=self.forward,
            speed=self.speed,
            durations=self.durations,
            credits=self.credits,
        )
        self._clock = Clock(self._world, self._announce)
        self._http_server = HttpServer(
            injector=FaultInjector(self.faults, rng=_rng(self.seed, "faults")),
            hook=self.on_request,
            pace=self.download_rate,
            date=self._write_date if self.clock_skew else None,
        )
        self._api = Api(
            clock=self._clock,
            bucket=TokenBucket(
                rate=self.requests_per_second, burst=self.burst or max(1.0, self.requests_per_second or 1.0)
            ),
            api_key=self.api_key,
            hold=_HOLD / self.speed,
            private_callbacks=self.allow_private_callbacks,
        )
        render_cache = RenderCache(self.cache_bytes, change=self.variations.change_audio)
        self._output_host = OutputHost(clock=self._clock, render_cache=render_cache, faults=self.faults)
        self._lifetime = ServerLifetime(self._live)
        secrets = (self.webhook_secret,) if isinstance(self.webhook_secret, str) else self.webhook_secret or ()
        self._webhook_sender = WebhookSender(
            keys=tuple(self.variations.read_secret(secret) for secret in secrets),
            attempts=self.webhook_attempts,
            timeout=self.webhook_timeout,
            pause=1 / self.speed,
        )

    def __repr__(self) -> str:
        """Show where it listens, and what it is doing."""
        return f"<Simulator {self.url or 'closed'} {self._world!r} {self._http_server!r}>"

    @property
    def log(self) -> list[ReceivedRequest]:
        """Every request to both hosts, in order of arrival."""
        return self._http_server.log

    @property
    def operations(self) -> Mapping[str, ServerOperation]:
        """The operations by id."""
        return self._world.operations

    @property
    def deliveries(self) -> list[WebhookAttempt]:
        """Every attempt to deliver a webhook, in order."""
        return self._webhook_sender.deliveries

    @property
    def peak_polls(self) -> int:
        """The highest number of GETs of the API that were open at once, held or not."""
        return self._http_server.peak_polls

    @property
    def open_requests(self) -> int:
        """How many requests are open now, at both hosts."""
        return self._http_server.open_requests

    @property
    def environ(self) -> dict[str, str]:
        """The environment variables that connect a client to this simulator."""
        return {"SOUNDPIECE_API_KEY": self.api_key, "SOUNDPIECE_BASE_URL": self.url}

    def statistics(self) -> ServerStatistics:
        """Return counts since the simulator was opened; cheap."""
        world, http_server, webhooks = self._world, self._http_server, self._webhook_sender.counts
        return ServerStatistics(
            operations=len(world.operations),
            processing=len(world.operations) - world.ended.total(),
            ready=world.ended["ready"],
            failed=world.ended["failed"],
            replays=world.replays,
            submits=http_server.counts["api PUT"],
            polls=http_server.counts["api GET"],
            open_requests=http_server.open_requests,
            peak_polls=http_server.peak_polls,
            downloads=self._output_host.downloads,
            bytes_sent=http_server.bytes_sent,
            rate_limited=self._api.rate_limited,
            faults=dict(http_server.injector.counts),
            webhooks_sent=webhooks["sent"],
            webhooks_delivered=webhooks["delivered"],
            webhooks_lost=webhooks["lost"],
            webhooks_withheld=webhooks["withheld"],
        )

    def inject(self, fault: Fault, **details: Unpack[FaultDetails]) -> None:
        """Inject a fault into the next request, or the next that matches: see `FaultDetails` and `Fault`."""
        self._http_server.injector.inject(fault, **details)

    def top_up(self, credits: int) -> None:  # noqa: A002 - what they are called
        """Allow that many more operations."""
        self._world.credits = (self._world.credits or 0) + credits

    def expire_urls(self) -> None:
        """Expire every URL signed so far; a GET of the operation signs fresh ones."""
        self._world.signer.revoke()

    def finish(self, operation: str, *, failure: str | None = None) -> None:
        """End an operation now, by its id; with the code of a `failure` it fails."""
        error = None if failure is None else OperationError(code=failure)
        self._lifetime.call(partial(self._clock.finish, operation, failure=error))

    def replace_audio(self, operation: str) -> None:
        """Replace the audio of a ready operation by other audio of the same length; its URLs stay, its ETags change."""
        self._world.replace_audio(operation)

    async def __aenter__(self) -> Self:
        """Open both hosts."""
        await self._lifetime.begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Reset all connections and close."""
        await self._lifetime.end()

    async def _live(self, opened: anyio.Event, closing: anyio.Event) -> None:
        """Run until `closing`; every task is a child of this one."""
        self._world.wall_offset = time.time() + self.clock_skew - anyio.current_time()
        api = Host(host="api", identify=self._api.identify, answer=self._api.answer)
        files = Host(host="output", identify=self._output_host.identify, answer=self._output_host.answer)
        handle = self._http_server.handle
        async with (
            aiohttp.ClientSession() as client,
            listen(partial(handle, host=api), host=self.host, port=self.port) as url,
            listen(partial(handle, host=files), host=self.host, port=self.output_port) as output_url,
            anyio.create_task_group() as group,
        ):
            self.url = (self.public_url or make_reachable(url)).rstrip("/")
            self.output_url = (self.public_output_url or share_host(self.url, output_url)).rstrip("/")
            self._world.signer.origin = self.output_url
            group.start_soon(self._clock.run)
            group.start_soon(self._webhook_sender.run, client)
            opened.set()
            await closing.wait()
            self._http_server.close()
            group.cancel_scope.cancel()

    def _announce(self, operation: ServerOperation) -> None:
        """Send the webhook of an operation that ended, if it has a callback URL (docs/api.md#webhooks)."""
        callback = operation.submission.callback_url or self.callback_url
        if callback is None or not self._webhook_sender.keys:
            return
        rng = _rng(self.seed, operation.id)
        lost, doubled = rng.random() < self.webhook_loss, rng.random() < self.webhook_duplicates
        now = anyio.current_time()
        event = Event(
            id=f"msg_{rng.randbytes(12).hex()}",
            operation=operation.id,
            url=callback,
            timestamp=str(int(self._world.wall(now))),
            body=write_event(operation.route.name, self._world.present(operation, now=now), status=operation.status),
            lost=lost,
            doubled=doubled,
        )
        self._webhook_sender.enqueue(self.variations.change_event(event))

    def _write_date(self) -> str:
        return formatdate(self._world.wall(anyio.current_time()), usegmt=True)


def _make_api_key(seed: int) -> str:
    return f"spk_{_rng(seed, 'api key').randbytes(20).hex()}"


def _make_webhook_secret(seed: int) -> str:
    return f"whsec_{base64.b64encode(_rng(seed, 'webhook secret').randbytes(32)).decode()}"


def _rng(seed: int, purpose: str) -> random.Random:
    """Return a random generator for one purpose, so that none affects another."""
    return random.Random(f"{seed} {purpose}")
