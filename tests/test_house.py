"""Rules of the project: public names, imports, sizes. The documentation is tested in test_docs.py."""

import ast
import functools
import importlib
import inspect
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import yaml

import soundpiece_async
from soundpiece_async import Session

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "soundpiece_async"
CLIENT = [path for path in PACKAGE.rglob("*.py") if "simulator" not in path.parts]


@functools.cache
def imports(path: Path, *, annotations: bool = True) -> set[str]:
    """Return the modules that a file imports, wherever in the file; with or without those for annotations only."""
    found = set()
    for node in _walk(ast.parse(path.read_text()), annotations=annotations):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def _walk(node: ast.AST, *, annotations: bool) -> Iterator[ast.AST]:
    yield node
    if annotations or not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
        for child in ast.iter_child_nodes(node):
            yield from _walk(child, annotations=annotations)


def test_the_public_list_is_sorted_and_complete() -> None:
    """``__all__`` lists what type checkers see imported, each name can be imported, and there is nothing else."""
    names = soundpiece_async.__all__
    assert names == sorted(names)
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    (shown,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    seen = [alias.name for node in ast.walk(shown) if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted(seen) == names
    assert set(names) <= set(dir(soundpiece_async))
    for name in names:
        assert name == "Destination" or getattr(soundpiece_async, name).__name__ == name  # an alias has another name
    with pytest.raises(AttributeError, match="no attribute 'Sessions'"):
        soundpiece_async.Sessions  # noqa: B018 - asking is what is tested


def test_every_list_of_pythons_is_the_same() -> None:
    """The classifiers, what nox runs, and what the workflow runs by the README's command."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [one.rpartition(" ")[2] for one in project["classifiers"] if "Python :: 3." in one]
    (listed,) = (
        ast.literal_eval(node.value)
        for node in ast.parse((ROOT / "noxfile.py").read_text()).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "PYTHONS"
    )
    job = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]["test"]
    assert named == listed == job["strategy"]["matrix"]["python"]
    assert job["steps"][-1]["run"] == "bash .ci/run"


def test_forms_and_hooks_can_be_read() -> None:
    """Each form of an issue asks for something, and each hook before a commit is a program of the environment."""
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml"):
        form = yaml.safe_load(path.read_text())
        assert {"name", "description", "body"} <= form.keys()
        ids = [field["id"] for field in form["body"] if field["type"] != "markdown"]
        assert ids == list(dict.fromkeys(ids)) != []
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repo["repo"] for repo in hooks] == ["local"]
    assert {hook["language"] for repo in hooks for hook in repo["hooks"]} == {"system"}


def test_the_command_line_is_quick_to_catch_signals() -> None:
    """Before it does, nothing is imported but what Python itself has loaded, the signals and our first two files."""
    code = f"""import sys
sys.path.append({str(ROOT)!r})
loaded = set(sys.modules)
from soundpiece_async.cli import main
print(*set(sys.modules) - loaded)"""
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)  # noqa: S603 - our own code
    assert not {"typing", "asyncio", "anyio", "attr"} & set(done.stdout.split())


def test_help_needs_no_network() -> None:
    """It comes at once: the library itself is loaded by the commands that use it."""
    code = """import atexit, sys
atexit.register(lambda: print(*sys.modules, file=sys.stderr))
from soundpiece_async.cli.commands import app
app("--help", exit_on_error=False)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603 - our own code
    loaded = set(done.stderr.split())
    assert "soundpiece_async._core.requests" in loaded
    assert not loaded & {"aiohttp", "uvloop"}


def test_aiohttp_is_imported_in_one_file() -> None:
    """And cattrs, and asyncio: what is imported for annotations only does not count."""
    found = {
        name: {str(path.relative_to(PACKAGE)) for path in CLIENT if name in imports(path, annotations=False)}
        for name in ("aiohttp", "cattrs", "asyncio")
    }
    servers = {"webhooks.py", "cli/probe/listener.py"}  # handlers of aiohttp's server
    assert found["aiohttp"] - servers == {"_http/client.py", "_http/connections.py", "_http/errors.py"}
    assert found["cattrs"] == {"_core/codec.py"}
    assert {file for file in found["asyncio"] if "cli" not in file} == {"_lifetime.py"}


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports in functions and under TYPE_CHECKING count, too: a reader has to follow them all."""
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in CLIENT
    }
    graph = {}
    for name, path in modules.items():
        nodes = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom))
        named = {(node.module or "", alias.name) for node in nodes for alias in node.names}
        graph[name] = {f"{module}.{one}" if f"{module}.{one}" in modules else module for module, one in named} - {name}
    assert list(TopologicalSorter(graph).static_order())  # CycleError names the circle


def test_the_simulator_shares_no_code_with_the_client() -> None:
    """If both used one codec, a wrong name would be wrong on both sides, and every test would pass."""
    for path in (PACKAGE / "simulator").rglob("*.py"):
        foreign = {name for name in imports(path) if name.startswith("soundpiece_async")}
        assert all(name.startswith("soundpiece_async.simulator") for name in foreign), path


def test_importing_the_package_needs_no_extra() -> None:
    """The extras are imported where they are used."""
    code = """
import sys
sys.modules |= dict.fromkeys(("numpy", "soundfile", "cyclopts", "rich", "uvloop", "orjson", "obstore"))
from soundpiece_async import *
print(Session)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603 - our own code
    assert "Session" in done.stdout


def test_every_logger_redacts_what_it_repeats() -> None:
    """They are made in one file, which sees to it."""
    for path in CLIENT:
        assert ("getLogger(" in path.read_text()) == (path.name == "_logs.py"), path


def test_files_and_functions_stay_readable() -> None:
    """No file over 500 lines, no function over 50, not counting its documentation."""
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        assert text.count("\n") <= 500, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                documentation = (ast.get_docstring(node, clean=False) or "").count("\n") + 1
                assert node.end_lineno is not None
                assert node.end_lineno - node.lineno - documentation <= 50, f"{path}: {node.name}"


def test_every_module_can_be_imported() -> None:
    """No file is left that nothing can load."""
    for path in PACKAGE.rglob("*.py"):
        importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))


def test_import_statements_lead_to_every_module() -> None:
    """Programs that freeze a package (PyInstaller, Nuitka) follow statements, and nothing else."""
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in PACKAGE.rglob("*.py")
    }
    entrances = {"soundpiece_async", "soundpiece_async.webhooks", "soundpiece_async.pytest_plugin"}
    entrances |= {
        "soundpiece_async.engines.ray",
        "soundpiece_async.cli",
        "soundpiece_async.simulator",
        "soundpiece_async.__main__",
    }
    reached: set[str] = set()
    coming = set(entrances)
    while coming:
        name = coming.pop()
        reached.add(name)
        tree = ast.parse(modules[name].read_text())
        found = {name.rpartition(".")[0]}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.Name | ast.Attribute):
                assert ast.unparse(node) not in {"import_module", "importlib.import_module", "__import__"}, name
        coming |= found & modules.keys() - reached
    assert reached == modules.keys()


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_copy_without_metadata_works(tmp_path: Path, kind: str) -> None:
    """Vendored, on PYTHONPATH, or frozen into an archive: a session opens; version and pages are in the package."""
    home = tmp_path
    shutil.copytree(PACKAGE, home / "soundpiece_async", ignore=shutil.ignore_patterns("__pycache__"))
    if kind == "zip":
        home = Path(shutil.make_archive(str(tmp_path / "frozen"), "zip", tmp_path, "soundpiece_async"))
    code = """import asyncio, importlib.metadata, sys
real = importlib.metadata.distribution
def distribution(name):
    if name.replace("_", "-") == "soundpiece-async":
        raise importlib.metadata.PackageNotFoundError(name)
    return real(name)
importlib.metadata.distribution = distribution
sys.path.insert(0, sys.argv.pop())
import soundpiece_async
from soundpiece_async.cli import main
from soundpiece_async.cli.report import writer
writer._asset("report.html")
async def open_one():
    async with soundpiece_async.Session(soundpiece_async.Settings(api_key="spk_1")):
        print(soundpiece_async.__file__)
asyncio.run(open_one())
sys.exit(main(["--version"]))
"""
    done = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-P", "-c", code, str(home)], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [str(home / "soundpiece_async/__init__.py"), soundpiece_async.__version__]


def test_a_session_shows_nothing_it_should_not() -> None:
    """Public methods are documented."""
    for name, member in inspect.getmembers(Session, inspect.isfunction):
        if not name.startswith("_"):
            assert inspect.getdoc(member), name
