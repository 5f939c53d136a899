"""The pytest plugin: a simulated service for each test, or one for the run, and a session that talks to it.

pytest loads this in every run, also of projects that never use it, so it imports the rest when a fixture is asked for.
Every simulator lives in the loop of one thread, which outlives the loops of the tests. Needs the extra `pytest`.
"""

from __future__ import annotations

import re
from importlib.metadata import version
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from anyio.from_thread import BlockingPortal

    from soundpiece_async import Session, Settings
    from soundpiece_async.simulator import Simulator

Options: TypeAlias = dict[str, Any]
Scope: TypeAlias = Literal["function", "class", "module", "package", "session"]

_MARKER = """\
soundpiece(scope="function", **options): options of the test's soundpiece_async.simulator.Simulator, on top of \
soundpiece_options; scope="session": the simulator that all such tests share"""
_FOR_ASYNCIO = "soundpiece for asyncio"
_LOOP_SCOPES: tuple[Scope, ...] = ("function", "class", "module", "package", "session")
_OLDEST = (1, 1)
"""The first version of pytest-asyncio that the session's fixture works with."""
_SUBMIT_SECONDS = 2.0
"""Seconds of retries of a submit: a test should not wait five minutes for an outage."""


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line("markers", _MARKER)


@pytest.fixture(scope="session")
def soundpiece_options() -> Options:
    """Options of every simulator; override this fixture in conftest.py. Those of a marker take precedence.

    By default operations take a 500th of the real time, songs are short, and webhooks may go to this machine.
    """
    return {"speed": 500.0, "track_seconds": (0.3, 0.6), "allow_private_callbacks": True}


@pytest.fixture
def soundpiece_simulator(request: pytest.FixtureRequest, soundpiece_options: Options) -> Iterator[Simulator]:
    """The test's own simulated service, with the options of its `soundpiece` markers, the closest first."""
    marks = list(request.node.iter_markers("soundpiece"))
    if any(mark.args for mark in marks):
        pytest.fail("@pytest.mark.soundpiece takes keyword arguments only", pytrace=False)
    options = {name: value for mark in reversed(marks) for name, value in mark.kwargs.items()}
    match options.pop("scope", "function"):
        case "function":
            yield from _run_simulator(request, soundpiece_options | options)
        case "session" if not options:
            yield request.getfixturevalue("soundpiece_shared_simulator")
        case "session":
            pytest.fail(
                "the shared simulator takes its options from soundpiece_options, not from a marker", pytrace=False
            )
        case scope:
            pytest.fail(f'the scope of a simulator is "function" or "session", not {scope!r}', pytrace=False)


@pytest.fixture(scope="session")
def soundpiece_shared_simulator(request: pytest.FixtureRequest, soundpiece_options: Options) -> Iterator[Simulator]:
    """One simulator for the whole run, for fixtures of that scope, such as an application that is started once."""
    yield from _run_simulator(request, soundpiece_options)


@pytest.fixture
def soundpiece_settings(soundpiece_simulator: Simulator) -> Settings:
    """Settings for the simulator; submits are retried for two seconds."""
    from soundpiece_async import RetryPolicy, Settings  # only now somebody wants it

    return Settings(
        api_key=soundpiece_simulator.api_key,
        base_url=soundpiece_simulator.url,
        proxy=None,
        shared=None,
        retries=RetryPolicy(submit_max_elapsed=_SUBMIT_SECONDS),
    )


@pytest.fixture
def soundpiece_environ(soundpiece_simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment variables that connect a `Session()` to the simulator, set for this test."""
    secret = soundpiece_simulator.webhook_secret
    environ = dict(soundpiece_simulator.environ)
    if isinstance(secret, str):
        environ["SOUNDPIECE_WEBHOOK_SECRET"] = secret
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    return environ


@pytest.fixture
def soundpiece_session(request: pytest.FixtureRequest) -> Session:
    """An open session in the test's own loop, under pytest-asyncio or anyio's plugin; it talks to the simulator."""
    session: Session = request.getfixturevalue(_choose_session(request))
    return session


@pytest.fixture
async def _soundpiece_session_anyio(soundpiece_settings: Settings) -> AsyncIterator[Session]:
    async with _make_session(soundpiece_settings) as session:
        yield session


@pytest.fixture(scope="session")
def _soundpiece_thread() -> Iterator[BlockingPortal]:
    """The thread of all simulators; opening another one there takes a millisecond."""
    from anyio.from_thread import start_blocking_portal  # only now somebody wants it

    with start_blocking_portal() as portal:
        yield portal


def _run_simulator(request: pytest.FixtureRequest, options: Options) -> Iterator[Simulator]:
    try:
        from soundpiece_async.simulator import Simulator  # it renders audio: half a second of imports
    except ModuleNotFoundError as error:
        pytest.fail(
            f'the simulator needs {error.name}, which is not installed: pip install "soundpiece-async[pytest]"',
            pytrace=False,
        )
    try:
        simulator = Simulator(**options)
    except (TypeError, ValueError) as error:
        pytest.fail(f"invalid options of the simulator: {error}", pytrace=False)
    portal: BlockingPortal = request.getfixturevalue("_soundpiece_thread")
    with portal.wrap_async_context_manager(simulator):
        yield simulator


def _make_session(settings: Settings) -> Session:
    from soundpiece_async import Session  # only now somebody wants it

    return Session(settings)


def _choose_session(request: pytest.FixtureRequest) -> str:
    """Return the name of the fixture that opens a session in the event loop of the test."""
    plugins = request.config.pluginmanager
    mark = request.node.get_closest_marker("asyncio") if plugins.has_plugin("asyncio") else None
    by_anyio = "anyio_backend" in request.fixturenames
    if mark is not None and by_anyio:
        pytest.fail(
            "both pytest-asyncio and anyio's plugin would run this test; mark it for one of them", pytrace=False
        )
    if mark is not None:
        _require_version(version("pytest-asyncio"))
        if not plugins.has_plugin(_FOR_ASYNCIO):
            plugins.register(_make_asyncio_fixtures(), _FOR_ASYNCIO)
        scope = mark.kwargs.get("loop_scope") or request.config.getini("asyncio_default_test_loop_scope")
        return f"_soundpiece_session_asyncio_{scope}"
    if not by_anyio:
        pytest.fail(
            "soundpiece_session needs an asynchronous test, run by pytest-asyncio or by anyio's plugin", pytrace=False
        )
    if request.getfixturevalue("anyio_backend_name") != "asyncio":
        pytest.fail(
            "soundpiece_async runs on asyncio alone: override the fixture anyio_backend to return 'asyncio'",
            pytrace=False,
        )
    return "_soundpiece_session_anyio"


def _require_version(installed: str) -> None:
    """Fail when pytest-asyncio cannot run a fixture that is made while a test is set up."""
    if tuple(map(int, re.findall(r"\d+", installed)[:2])) < _OLDEST:
        pytest.fail(
            f"soundpiece_session needs pytest-asyncio {'.'.join(map(str, _OLDEST))} or later, found {installed}: "
            "python -m pip install -U pytest-asyncio; or mark the test with pytest.mark.anyio",
            pytrace=False,
        )


def _make_asyncio_fixtures() -> ModuleType:
    """Build one fixture for each loop scope of pytest-asyncio: a session belongs to one event loop."""
    import pytest_asyncio  # it is optional, and here: it runs this test

    def make(scope: Scope) -> Callable[..., object]:
        async def open_session(soundpiece_settings: Settings) -> AsyncIterator[Session]:
            async with _make_session(soundpiece_settings) as session:
                yield session

        fixture: Callable[..., object] = pytest_asyncio.fixture(
            open_session, loop_scope=scope, name=f"_soundpiece_session_asyncio_{scope}"
        )
        return fixture

    fixtures = ModuleType("soundpiece_asyncio", "The session fixture of this plugin, for pytest-asyncio.")
    vars(fixtures).update({scope: make(scope) for scope in _LOOP_SCOPES})
    return fixtures
