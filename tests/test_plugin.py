"""The pytest plugin as users meet it: inner test runs, under each runner of asynchronous tests."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from anyio.from_thread import start_blocking_portal
from helpers.simulation import never_finishes, simulate

from soundpiece_async.pytest_plugin import _require_version

pytest_plugins = ["pytester"]

Run: TypeAlias = Callable[..., pytest.RunResult]

ASYNCIO = "mark = pytest.mark.asyncio"
ASYNCIO_AUTO = "def mark(test): return test"
ANYIO = """
mark = pytest.mark.anyio

@pytest.fixture
def anyio_backend():
    return "asyncio"
"""
FIXTURE = {ASYNCIO: "@pytest_asyncio.fixture", ASYNCIO_AUTO: "@pytest.fixture", ANYIO: "@pytest.fixture"}

SESSIONS = """
@FIXTURE
async def made(soundpiece_session):
    done = await soundpiece_session.run(NewFx("door slams", duration=0.3))
    return done.operation.id

@mark
async def test_each_test_has_a_session_and_a_simulator(soundpiece_session, soundpiece_simulator):
    done = await soundpiece_session.run(NewFx("door slams", duration=0.3))
    assert list(soundpiece_simulator.operations) == [done.operation.id]

@mark
async def test_fixtures_use_the_very_session(made, soundpiece_session, soundpiece_simulator):
    assert list(soundpiece_simulator.operations) == [made]
    assert soundpiece_session.statistics().ready == 1

@mark
async def test_from_the_environment(soundpiece_environ):
    assert soundpiece_environ["SOUNDPIECE_WEBHOOK_SECRET"].startswith("whsec_")
    async with Session() as session:
        await session.run(NewFx("door slams", duration=0.3))

@pytest.fixture(scope="session")
def base_url(soundpiece_shared_simulator):
    return soundpiece_shared_simulator.url

@mark
@pytest.mark.soundpiece(scope="session")
@pytest.mark.parametrize("before", [0, 1])
async def test_the_shared_one_outlives_the_loops(before, base_url, soundpiece_session, soundpiece_simulator):
    assert soundpiece_simulator.url == base_url
    assert len(soundpiece_simulator.operations) == before
    await soundpiece_session.run(NewFx("door slams", duration=0.3))
"""

ONE_LOOP = """
@pytest.mark.asyncio(loop_scope="module")
async def test_a_loop_may_serve_several_tests(soundpiece_session):
    await soundpiece_session.run(NewFx("door slams", duration=0.3))
"""

MARKERS = """
pytestmark = pytest.mark.soundpiece(seed=7, credits=3, webhook_secret=None)

@pytest.fixture(scope="session")
def soundpiece_options(soundpiece_options):
    return soundpiece_options | {"speed": 77.0, "seed": 6}

@pytest.mark.soundpiece(credits=0)
class TestClosest:
    def test_the_closest_marker_wins(self, soundpiece_simulator):
        sim = soundpiece_simulator
        assert (sim.seed, sim.speed, sim.credits, sim.allow_private_callbacks) == (7, 77.0, 0, True)

def test_a_secret_less(soundpiece_environ):
    assert set(soundpiece_environ) == {"SOUNDPIECE_API_KEY", "SOUNDPIECE_BASE_URL"}
"""

MISTAKES = """
@pytest.mark.soundpiece(0)
def test_position(soundpiece_simulator): ...

@pytest.mark.soundpiece(colour="red")
def test_unknown(soundpiece_simulator): ...

@pytest.mark.soundpiece(speed=-1)
def test_value(soundpiece_simulator): ...

@pytest.mark.soundpiece(scope="class")
def test_scope(soundpiece_simulator): ...

@pytest.mark.soundpiece(scope="session", credits=1)
def test_shared(soundpiece_simulator): ...

def test_synchronous(soundpiece_session): ...

@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_trio(soundpiece_session): ...

@pytest.mark.anyio
@pytest.mark.asyncio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_both(soundpiece_session): ...
"""


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run tests in this process; the plugin is loaded anew, as pytest does it at its start."""
    for name in ("soundpiece_async", "soundpiece_async.pytest_plugin"):
        monkeypatch.delitem(sys.modules, name)

    def run_tests(code: str, *arguments: str, **ini: str) -> pytest.RunResult:
        lines = {"filterwarnings": "error", **ini}
        if "no:asyncio" not in arguments:
            lines["asyncio_default_fixture_loop_scope"] = "function"
        pytester.makeini("\n".join(["[pytest]", *(f"{name} = {value}" for name, value in lines.items())]))
        imports = "import pytest\nimport pytest_asyncio\nfrom soundpiece_async import NewFx, Session\n"
        pytester.makepyfile(test_inner=imports + code)
        return pytester.runpytest_inprocess("-p", "no:cacheprovider", "-p", "no:faker", *arguments)

    return run_tests


@pytest.mark.parametrize(
    ("head", "mode", "plugins", "more"),
    [
        (ASYNCIO, "strict", (), ONE_LOOP),
        (ASYNCIO_AUTO, "auto", ("-p", "no:anyio"), ONE_LOOP),
        (ANYIO, "strict", (), ""),
    ],
    ids=["asyncio strict", "asyncio auto", "anyio"],
)
def test_a_session_lives_in_the_loop_of_its_test(
    run: Run, head: str, mode: str, plugins: tuple[str, ...], more: str
) -> None:
    """For each runner: the session is open in the loop of test and fixtures, and the simulator outlives both."""
    code = head + SESSIONS.replace("@FIXTURE", FIXTURE[head]) + more
    run(code, *plugins, asyncio_mode=mode).assert_outcomes(passed=6 if more else 5)


def test_markers_make_the_simulator(run: Run) -> None:
    """Options come from the run, then from the module, the class and the test; the closest wins."""
    run(MARKERS).assert_outcomes(passed=2)


def test_mistakes_are_explained_in_a_line(run: Run) -> None:
    """Invalid options fail without a traceback of the plugin."""
    result = run(MISTAKES)
    result.assert_outcomes(errors=8)
    result.stdout.fnmatch_lines(
        [
            "@pytest.mark.soundpiece takes keyword arguments only",
            "invalid options of the simulator: *'colour'",
            "invalid options of the simulator: 'speed' must be a finite number above 0: -1",
            'the scope of a simulator is "function" or "session", not \'class\'',
            "the shared simulator takes its options from soundpiece_options, not from a marker",
            "soundpiece_session needs an asynchronous test, run by pytest-asyncio or by anyio's plugin",
            "soundpiece_async runs on asyncio alone: override the fixture anyio_backend to return 'asyncio'",
            "both pytest-asyncio and anyio's plugin would run this test; mark it for one of them",
        ]
    )
    result.stdout.no_fnmatch_line("*pytest_plugin.py*")


def test_a_missing_extra_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what the simulator needs, the error says how to get it; the run goes on."""
    monkeypatch.setitem(sys.modules, "soundpiece_async.simulator", None)
    result = run("def test_one(soundpiece_simulator): ...\ndef test_other(): ...", "-p", "no:asyncio")
    result.assert_outcomes(errors=1, passed=1)
    result.stdout.fnmatch_lines(['*pip install "soundpiece-async?pytest?"'])


def test_nothing_is_imported_before_it_is_asked_for(pytester: pytest.Pytester) -> None:
    """Every project with this package installed loads the plugin in each run: it must cost nothing."""
    pytester.makeconftest("import sys\ndef pytest_unconfigure(): print('\\nloaded', *sorted(sys.modules))")
    pytester.makepyfile("def test_nothing(): ...")
    pytester.makeini("[pytest]")  # or one above this folder counts
    environ = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "soundpiece_async.pytest_plugin", "-p", "no:cacheprovider"],
        cwd=pytester.path,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    loaded = set(done.stdout.partition("\nloaded ")[2].split())
    own = {"soundpiece_async", "soundpiece_async._version", "soundpiece_async.pytest_plugin"}
    assert {name for name in loaded if "soundpiece" in name} == own
    assert not {"aiohttp", "anyio", "attrs", "numpy"} & loaded


def test_a_simulator_in_a_thread_is_used_from_another() -> None:
    """An operation is ended from outside its loop, mistakes are raised here; and not once the loop has gone."""
    simulator = simulate(durations=never_finishes)
    with pytest.raises(RuntimeError, match="does not run"):
        simulator.finish("op_1")
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(simulator):
        with pytest.raises(KeyError):
            simulator.finish("op_1")
    with pytest.raises(RuntimeError, match="does not run"):
        simulator.finish("op_1")


def test_the_page_about_testing_holds(run: Run) -> None:
    """Its application and its tests, as one file."""
    page = (Path(__file__).parent.parent / "docs" / "testing.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    result = run("\n".join(blocks), "--durations=0", asyncio_mode="strict")
    result.assert_outcomes(passed=sum(block.count("def test_") for block in blocks))


@pytest.mark.parametrize("installed", ["0.21.2", "0.26.0", "1.0.0"])
def test_an_old_pytest_asyncio_is_named(installed: str) -> None:
    """Instead of an error out of its inside: which version does, and what to do (E12)."""
    with pytest.raises(pytest.fail.Exception, match=f"needs pytest-asyncio 1.1 or later, found {installed}: "):
        _require_version(installed)
    for new in ("1.1.0", "1.1.0a1", "2.0"):
        _require_version(new)
