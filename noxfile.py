"""``nox`` runs the tests on every installed interpreter, the lint and the type checks."""

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import nox
from packaging.requirements import Requirement

nox.needs_version = ">=2024.10"
nox.options.sessions = ["lint", "typing", "docs", "tests", "browser", "package"]
nox.options.error_on_missing_interpreters = False  # missing interpreters are skipped with a warning, on CI too
nox.options.reuse_venv = "yes"
nox.options.default_venv_backend = "uv|virtualenv"  # with uv, which README's command brings, a minute less for each

PYTHONS = ["3.11", "3.12", "3.13", "3.14", "3.15"]
MEASURED = "3.13"
"""The one that coverage, browser and thorough tests are run on: if it is missing, they are skipped."""
WHOLE = (MEASURED, PYTHONS[-1])
"""Interpreters that also run the slow tests, which depend little on the interpreter; others do with ``-- tests``."""


def show_pyenv_interpreters() -> None:
    """Make all pyenv interpreters reachable: pyenv itself shows only the selected one."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = {".".join(path.name.split(".")[:2]): path.name for path in sorted(root.glob("3.*"))}
    here = [found[python] for python in PYTHONS if python in found]
    if here:
        os.environ["PATH"] = os.pathsep.join([*(str(root / name / "bin") for name in here), os.environ["PATH"]])


show_pyenv_interpreters()
os.environ["UV_PYTHON_DOWNLOADS"] = "never"
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # or each of some hundred processes compiles all that it imports


def install(session: nox.Session, *groups: str) -> None:
    """Install the package with every extra, and what this session needs besides; compiled where many load it."""
    project = nox.project.load_toml("pyproject.toml")
    compiled = {"UV_COMPILE_BYTECODE": "1"} if "test" in groups else {}
    session.install("-q", "-e", ".[all]", *nox.project.dependency_groups(project, *groups), env=compiled)


def run_together(session: nox.Session, *commands: Callable[..., object]) -> None:
    """Run commands that keep one processor busy each, and print what they wrote once all have ended."""
    with ThreadPoolExecutor() as pool:
        running = [pool.submit(command, silent=True) for command in commands]
    for ended in running:
        session.log(ended.result())


def provide(session: nox.Session, program: str, *, package: str, others: tuple[str, ...] = ()) -> bool:
    """Install Debian packages if their program is missing; return whether the program is available."""
    places = os.pathsep.join([os.environ["PATH"], "/usr/sbin", *map(str, Path("/usr/lib/postgresql").glob("*/bin"))])
    if any(shutil.which(one, path=places) for one in (program, *others)):
        return True
    if not shutil.which("apt-get") or os.geteuid() != 0:
        return False
    session.run("apt-get", "update", "-q", external=True, silent=True)
    session.run("apt-get", "install", "-y", "-q", *package.split(), external=True, silent=True)
    return True


def provide_servers(session: nox.Session) -> None:
    """Install a compiler, and the servers that tests start for themselves."""
    provide(session, "cc", package="gcc libc6-dev")
    if not provide(session, "valkey-server", package="redis-server", others=("redis-server",)):
        session.error("no redis-server or valkey-server, and no way to install it: install it, then run this again")
    if not provide(session, "postgres", package="postgresql"):
        session.error("no postgres, and no way to install it: install it, then run this again")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the tests, warnings as errors.

    On the oldest interpreter some files use event loops in debug mode (`DEBUG_MODE_FILES` in `tests/conftest.py`), and
    `MEASURED`, whose tracing costs least, measures the branch coverage. Those that are not `WHOLE` leave out the files
    that take most of the time and depend little on the interpreter (`SLOW` there). The second one holds the simulator
    against the machine-readable description of the API.
    """
    provide_servers(session)
    install(session, "test")
    session.env["COVERAGE_FILE"] = str(Path(session.create_tmp(), "coverage"))
    coverage = ["--cov", "--cov-report=term-missing:skip-covered"] if session.python == MEASURED else []
    brief = ["--brief"] if session.python not in WHOLE and not session.posargs else []
    session.run("pytest", "-q", "-n", "4", "--dist", "worksteal", *coverage, *brief, *session.posargs)
    if session.python == PYTHONS[1]:
        install(session, "test", "openapi")
        session.run("pytest", "-q", "-n", "2", "tests/openapi")  # no loadfile: ids stand for several tests


@nox.session(python=MEASURED)
def ray(session: nox.Session) -> None:
    """Run parts of a run on a real Ray; only when asked for, as a busy machine cannot start Ray within its 30 s."""
    provide_servers(session)
    install(session, "test")
    session.install("-q", "-e", ".[ray]", env={"UV_COMPILE_BYTECODE": "1"})
    session.run("pytest", "-q", "tests/ray", *session.posargs)


@nox.session(python=MEASURED)
def thorough(session: nox.Session) -> None:
    """Run in full what the tests only sample: every bit flip, every turn of the event loop. Many minutes."""
    provide_servers(session)
    install(session, "test")
    session.run("pytest", "-q", "-n", "4", "--dist", "worksteal", "--thorough", "--timeout", "3600", *session.posargs)


@nox.session(python=PYTHONS[0], venv_backend="uv")
def lowest(session: nox.Session) -> None:
    """Run the tests at the lowest versions that the metadata allows, with today's test tools; only when asked for."""
    project = nox.project.load_toml("pyproject.toml")
    session.install("-q", "--resolution", "lowest-direct", "-e", ".[all]")
    extras = project["project"]["optional-dependencies"]
    wanted = [*project["project"]["dependencies"], *(one for name in extras if name != "all" for one in extras[name])]
    names = sorted({Requirement(one).name for one in wanted} - {"pytest"})
    script = f"from importlib.metadata import version\nfor name in {names}: print(f'{{name}}=={{version(name)}}')"
    found = str(session.run("python", "-c", script, silent=True))
    constraints = Path(session.create_tmp(), "lowest.txt")
    constraints.write_text(f"{found}pytest<9\n")  # the plugin of our lowest anyio is warned of by later ones
    provide_servers(session)
    session.install("-q", "-c", str(constraints), *nox.project.dependency_groups(project, "test"))
    session.log(", ".join(found.split()))
    session.run("pytest", "-q", "-n", "4", "--dist", "worksteal", *session.posargs)


@nox.session(python=MEASURED)
def browser(session: nox.Session) -> None:
    """Test the web pages in a real Chromium, which is installed if possible."""
    if not provide(session, "chromium", package="chromium"):
        session.skip("no chromium on the PATH, and no way to install it: these tests need it")
    install(session, "test", "browser")
    session.run("pytest", "-q", "-n", "2", "--dist", "worksteal", "tests/browser", *session.posargs)


@nox.session
def package(session: nox.Session) -> None:
    """Build wheel and sdist, test them in an environment with nothing else, and execute the example notebook."""
    project = nox.project.load_toml("pyproject.toml")
    session.install("-q", "-e", ".[simulator]", *nox.project.dependency_groups(project, "package"))
    together = ("-n", "2", "--dist", "loadfile")  # to freeze a program takes as long as all others
    session.run("pytest", "-q", "-c", "tests/package/pytest.ini", *together, "tests/package", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, format and import contracts."""
    project = nox.project.load_toml("pyproject.toml")
    session.install("-q", *nox.project.dependency_groups(project, "lint"))  # the package is read, not imported
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports", "--no-cache")


@nox.session
def typing(session: nox.Session) -> None:
    """Check the types as strictly as mypy can, and that every public name has one."""
    install(session, "typing")
    session.run("pyright", "--version", silent=True)  # it may have to be downloaded
    benchmarks = partial(session.run, "mypy", "--python-version", "3.12", "benchmarks")
    run_together(
        session,
        partial(session.run, "mypy"),
        partial(benchmarks, env={"MYPYPATH": "benchmarks:tests"}),
        partial(session.run, "pyright"),
        partial(session.run, "pyright", "--ignoreexternal", "--verifytypes", "soundpiece_async"),
    )


@nox.session(python=PYTHONS[0])
def bench(session: nox.Session) -> None:
    """Measure everything in its quick form, some minutes, and print one table; `-- --only peers` does less."""
    servers = {"nginx": "nginx-light", "redis-server": "redis-server", "postgres": "postgresql"}
    for program, package in {"curl": "curl", **servers}.items():
        if not provide(session, program, package=package):
            session.warn(f"no {program}, and no way to install it: what needs it will say so")
    install(session, "bench")
    session.run("python", "benchmarks", "--quick", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site into site/: every warning is an error, and nothing may be loaded from another host."""
    project = nox.project.load_toml("pyproject.toml")
    session.install("-q", *nox.project.dependency_groups(project, "docs"))  # the package is read, not imported
    session.env["NO_MKDOCS_2_WARNING"] = "1"
    session.run("mkdocs", "build", "--strict", "--config-file", "docs/_site/mkdocs.yml", *session.posargs)


@nox.session
def demo(session: nox.Session) -> None:
    """Run the main job against the embedded simulator."""
    install(session)
    session.run("soundpiece", "demo", *session.posargs)
