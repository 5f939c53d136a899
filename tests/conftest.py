"""What every test needs: the backend, a fast simulator, and sessions that talk to it."""

import asyncio
import faulthandler
import gc
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from anyio.from_thread import start_blocking_portal
from helpers.database_servers import Server, serve_postgres, serve_redis
from helpers.idle import no_task_left
from helpers.journals import use_database
from helpers.json_readers import READERS
from helpers.ports import reserved_port
from helpers.simulation import Serve, settings, simulate

from soundpiece_async import Session
from soundpiece_async._core import codec
from soundpiece_async.simulator import Simulator

hypothesis.settings.register_profile("prompt", max_examples=25, deadline=None)
hypothesis.settings.load_profile("prompt")

# frames kept of where each handle of a loop in debug mode was made: ten of them take longer than the tests themselves
asyncio.constants.DEBUG_STACK_DEPTH = 1  # type: ignore[misc]

for _name in ("API_KEY", "BASE_URL", "JOURNAL", "PROXY", "SHARED"):
    os.environ.pop(f"SOUNDPIECE_{_name}", None)  # of the developer's shell: what is not given would be read from it

DEBUG_MODE_FILES = {
    *("test_bulk", "test_cancellation", "test_lifetime_timeouts", "test_download_files", "test_journal"),
    "test_lifetime",
    *("test_poller", "test_session", "test_download_stream", "test_webhooks"),
}
"""Files whose tests use a loop in debug mode, on the oldest interpreter."""

SLOW = {
    *("simulator", "test_cli_bulk", "test_cli_demo", "test_cli_pipelines", "test_cli_probe", "test_cli_work"),
    *("test_damage", "test_descriptors", "test_docs", "test_download_hosts", "test_download_safety"),
    *("test_download_save_to", "test_download_stores", "test_download_upload", "test_examples", "test_file_systems"),
    *("test_foreign_text", "test_frameworks", "test_full_disk", "test_growth", "test_house", "test_journal_plan"),
    *("test_kills", "test_locales", "test_machines", "test_missing_modules", "test_nothing_bare"),
    *("test_plausible_answers", "test_plausible_services", "test_postgres_journal", "test_processes"),
    *("test_recording", "test_refusals", "test_regularfiles", "test_renewal", "test_shared_sessions"),
    *("test_shared_stores", "test_studio", "test_unknown"),
}
"""Files and a folder that depend little on the interpreter, and take two thirds of the time.

What remains has the pure core, sessions, transport and downloads, the journal in both databases, signals, webhooks, and
the command line in this process and in others.
"""

LONGEST = 115.0
"""Seconds after which the process of a hanging test is ended, if the test's own timeout did not end it."""

STANDARD_ERROR = os.dup(2)
"""Standard error, not captured."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that run less, and that run whole what is sampled by default."""
    text = "leave out the files that take long and depend little on the interpreter (SLOW in tests/conftest.py)"
    parser.addoption("--brief", action="store_true", help=text)
    text = "run only the tests that sample what they try (fixture `thorough`), and let them try all of it"
    parser.addoption("--thorough", action="store_true", help=text)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Skip the collection of files that are left out."""
    return True if config.getoption("brief") and collection_path.stem in SLOW else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep only the tests that sample, when they are to run whole."""
    if config.getoption("thorough"):
        items[:] = [item for item in items if "thorough" in getattr(item, "fixturenames", ())]


def pytest_collection_finish() -> None:
    """Exclude the collected tests from later garbage collections."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def _garbage_is_collected() -> Iterator[None]:
    """Report resources that were not closed in the file whose tests left them."""
    yield
    gc.collect()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """End the process, with the stack of each thread, when a test hangs beyond its timeout."""
    if not item.config.getoption("thorough"):
        faulthandler.dump_traceback_later(LONGEST, exit=True, file=STANDARD_ERROR)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def thorough(request: pytest.FixtureRequest) -> bool:
    """Whether to try everything: every bit, every turn of the loop; else a sample, so that the suite stays quick."""
    return bool(request.config.getoption("thorough"))


@pytest.hookimpl(trylast=True)  # while the workers start: they are given their first tests after it
def pytest_sessionstart(session: pytest.Session) -> None:
    """Build hypothesis's Unicode tables once, in a file, rather than in every worker."""
    if not hasattr(session.config, "workerinput"):
        hypothesis.strategies.text().validate()


@pytest.fixture
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """Asyncio only; on the oldest interpreter in debug mode where our tasks live and end, as that doubles the time."""
    return "asyncio", {"debug": sys.version_info < (3, 12) and request.module.__name__ in DEBUG_MODE_FILES}


@pytest.fixture(scope="module", params=READERS)
def reader(request: pytest.FixtureRequest) -> Iterator[Callable[[bytes], Any]]:
    """Read all JSON of a file's tests by each: ``pytestmark = pytest.mark.usefixtures("reader")``."""
    with pytest.MonkeyPatch.context() as changed:
        changed.setattr(codec, "decode_json", READERS[request.param])
        yield READERS[request.param]


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    """Open a simulated API, two hundred times as fast as the real one, with short audio."""
    async with simulate() as simulator:
        yield simulator


@pytest.fixture
async def session(sim: Simulator) -> AsyncIterator[Session]:
    """A session that talks to the simulator."""
    async with Session(settings(sim)) as opened:
        yield opened


@pytest.fixture
async def no_tasks_left() -> AsyncIterator[None]:
    """Expect that a test leaves no task."""
    async with no_task_left():
        yield


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the pauses after failed attempts: of submits and single reads, and of polls."""
    monkeypatch.setattr("soundpiece_async._core.retry.REQUEST_BACKOFF_BASE", 0.02)
    monkeypatch.setattr("soundpiece_async._core.scheduler.FIRST_BACKOFF", 0.001)  # of a long poll: 0.02 s


@pytest.fixture
def free_port() -> Iterator[int]:
    """A reserved port, which refuses connections until a server is started on it."""
    with reserved_port() as port:
        yield port


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> str:
    """A base URL whose name does not exist, as is known at once: this machine's resolver may be slow, or away."""
    look_up = socket.getaddrinfo

    def fail(host: Any, *args: Any, **options: Any) -> Any:
        if host == "nobody.invalid":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return look_up(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    return "https://nobody.invalid"


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Open simulators in their own thread, and set this process's environment to the last one."""
    with start_blocking_portal() as portal, ExitStack() as opened:

        def start(**settings: Any) -> Simulator:
            options: dict[str, Any] = {"speed": 500.0, "track_seconds": (2.0, 2.5)} | settings
            simulator = Simulator(**options)
            opened.enter_context(portal.wrap_async_context_manager(simulator))
            for name, value in simulator.environ.items():
                monkeypatch.setenv(name, value)
            return simulator

        yield start


@pytest.fixture(scope="module")
def redis() -> Iterator[Server]:
    """One Redis for all tests of a file."""
    with serve_redis() as server:
        yield server


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One Postgres for all tests of a file."""
    base = tmp_path_factory.getbasetemp()
    with serve_postgres(base.parent if base.name.startswith("popen-") else base) as server:
        yield server


@pytest.fixture(scope="session")
def journal_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One Postgres for the journals of all tests; a run for each of their folders."""
    base = tmp_path_factory.getbasetemp()
    with serve_postgres(base.parent if base.name.startswith("popen-") else base) as server:
        yield server


@pytest.fixture(params=["sqlite", "postgres"])
def journals(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run a test against both databases; it opens its journals by ``open_journal``."""
    if request.param == "postgres":
        use_database(request.getfixturevalue("journal_database").url)
    yield
    use_database(None)
