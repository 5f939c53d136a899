"""What people install: built from the sources, put into an environment with nothing else, then extra by extra."""

import email
import json
import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.message import Message
from functools import cached_property
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
REQUIRED = {"aiofiles", "aiohttp", "anyio", "attrs", "cattrs"}

EXTRAS = list(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
USES = {
    "cli": "import sys; from soundpiece_async.cli import main; sys.exit(main(['--help']))",
    "simulator": "import soundpiece_async.simulator",
    "verify": "from soundpiece_async import Session, Settings; Session(Settings(api_key='spk_1', verify='full'))",
    "obstore": "from soundpiece_async._download import destinations as d; d.check_destination('s3://b', verify='none')",
}
"""What cannot be done without an extra. `fast` is used where it is; `pytest` has a test of its own."""
HIDE = """
import sys

class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {}:
            raise ModuleNotFoundError(f"{{name}} is hidden", name=name)

sys.meta_path.insert(0, Hide())
"""
PIECE = """
import subprocess

def test_installed(soundpiece_environ, tmp_path):
    flags = ["--prompt", "door slams", "--duration", "0.5", "--save-to", str(tmp_path)]
    subprocess.run(["soundpiece", "run", "create.new_fx", *flags], check=True)
    assert len(list(tmp_path.glob("*.flac"))) == 1
"""


def call(*command: object, env: dict[str, str] | None = None, code: int = 0) -> str:
    """Run a command that must end with this code, and give all that it writes."""
    done = subprocess.run(  # noqa: S603 - our own commands
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, env=env
    )
    assert done.returncode == code, done.stdout
    return done.stdout


class Environment:
    """A virtual environment without pip; the one that runs this puts packages into it."""

    def __init__(self, folder: Path) -> None:
        call(sys.executable, "-m", "venv", "--without-pip", folder)
        self.scripts = folder / "bin"

    def install(self, *what: object) -> None:
        """Install packages, from wheels only."""
        pip = [sys.executable, "-m", "pip", "--python", self.scripts / "python", "--disable-pip-version-check"]
        call(*pip, "install", "-q", "--no-compile", "--only-binary", ":all:", *what)

    def run(self, *arguments: object, code: int = 0) -> str:
        """Run its Python, as if it had been activated."""
        environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        path = os.pathsep.join([str(self.scripts), environ["PATH"]])
        return call(self.scripts / "python", *arguments, env=environ | {"PATH": path}, code=code)

    @cached_property
    def modules(self) -> dict[str, set[str]]:
        """What can be imported of each package that is installed."""
        written = self.run("-c", "import json, importlib.metadata as m; print(json.dumps(m.packages_distributions()))")
        found: dict[str, set[str]] = {}
        for module, names in json.loads(written).items():
            for name in names:
                found.setdefault(name, set()).add(module)
        return found


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the source distribution, and the wheel from it."""
    folder = tmp_path_factory.mktemp("dist")
    call(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT)
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    """Return the only wheel, which fits every platform."""
    (path,) = dist.glob("*.whl")
    assert path.name.endswith("-py3-none-any.whl")
    return path


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    """Read what the wheel says of itself."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Install the wheel and what it requires, and nothing else."""
    environment = Environment(tmp_path_factory.mktemp("environment"))
    environment.install(wheel)
    return environment


@pytest.fixture(scope="module")
def full(bare: Environment, wheel: Path) -> Environment:
    """Install every extra as well; so the tests of the bare one come first."""
    bare.install(f"soundpiece-async[{','.join(EXTRAS)}] @ {wheel.as_uri()}")
    return bare


def requirements(metadata: Message, extra: str | None = None) -> list[Requirement]:
    """List what is required here: always, or by an extra."""
    every = [Requirement(line) for line in metadata.get_all("Requires-Dist", [])]
    if extra is None:
        return [one for one in every if "extra" not in str(one.marker)]
    return [
        one
        for one in every
        if "extra" in str(one.marker) and one.marker is not None and one.marker.evaluate({"extra": extra})
    ]


def test_the_wheel_has_the_package_and_no_more(wheel: Path) -> None:
    """Every file of the package, its data and the marker of its types; no tests, no tools."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    package = {path for path in (ROOT / "soundpiece_async").rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert names == {path.relative_to(ROOT).as_posix() for path in package}
    assert "soundpiece_async/py.typed" in names


def test_the_source_has_what_a_packager_needs(dist: Path) -> None:
    """Licence, changes, tests and documentation go with it; nothing that was left lying about does."""
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {Path(*Path(name).parts[1:]).as_posix() for name in archive.getnames()}
    assert {
        "LICENSE",
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "noxfile.py",
        "tests/conftest.py",
        "tests/helpers/__init__.py",
    } <= names
    assert {"docs/testing.md", "examples/bulk.py", "benchmarks/README.md"} <= names
    assert not [name for name in names if name.endswith((".pyc", ".flac", ".part")) or ".venv" in name]


def test_the_metadata_is_valid(dist: Path, metadata: Message) -> None:
    """As the standards and the index have it: classifiers exist, the description renders."""
    call(sys.executable, "-m", "validate_pyproject", ROOT / "pyproject.toml")
    call(sys.executable, "-m", "twine", "check", "--strict", *dist.iterdir())
    assert {one.name for one in requirements(metadata)} == REQUIRED
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_all("Project-URL") == ["Source, https://github.com/soundpiece/soundpiece-async"]
    assert metadata.get_payload(decode=True) == (ROOT / "README.md").read_bytes()


def test_an_extra_of_all_brings_all_but_what_tests_need(metadata: Message) -> None:
    """Who asks for ``all`` can do everything but run on Ray, which is large and not for every interpreter."""
    brought = {name: set(map(str, requirements(metadata, name))) for name in EXTRAS}
    names = {name: {Requirement(one).name for one in ones} for name, ones in brought.items()}
    assert metadata.get_all("Provides-Extra") == sorted(EXTRAS)
    assert names["all"] == set.union(*(names[name] for name in EXTRAS if name not in ("all", "pytest", "ray")))


def test_it_works_with_the_five_requirements(bare: Environment) -> None:
    """It is imported whole, finds its settings and its version, and wants nothing more."""
    code = (
        "import soundpiece_async, soundpiece_async.webhooks, importlib.metadata\n"
        "session = soundpiece_async.Session(soundpiece_async.Settings(api_key='spk_1'))\n"
        "print(importlib.metadata.version('soundpiece-async'), session)"
    )
    assert bare.run("-W", "error", "-c", code).startswith("0.")


@pytest.mark.parametrize("extra", USES)
def test_a_missing_extra_is_named(bare: Environment, extra: str) -> None:
    """Using something that is not installed shows what to install, in the last line."""
    written = bare.run("-c", USES[extra], code=2 if extra == "cli" else 1)
    assert f"soundpiece-async[{extra}]" in written.splitlines()[-1]


@pytest.mark.parametrize("extra", [extra for extra in EXTRAS if extra != "all"])
def test_an_extra_brings_what_it_says(full: Environment, metadata: Message, extra: str) -> None:
    """Each of its requirements can be imported, and what needs it works without those of the others."""
    every = {one.name for other in EXTRAS for one in requirements(metadata, other)}
    names = {one.name for one in requirements(metadata, extra)}
    assert names
    hidden = {module for name in every - names - {"pytest"} for module in full.modules[name]}
    code = "".join(f"import {name}\n" for name in sorted(names))
    full.run("-c", HIDE.format(hidden) + code + USES.get(extra, ""))


def test_the_plugin_names_its_extra(full: Environment, tmp_path: Path) -> None:
    """With a pytest but without the extra: other tests run, and the fixtures say what is missing."""
    (tmp_path / "test_it.py").write_text("def test_one(soundpiece_simulator): ...\ndef test_other(): ...\n")
    code = f"{HIDE.format({'numpy'})}import pytest; sys.exit(pytest.main(sys.argv[1:]))"
    written = full.run("-c", code, "-W", "error", tmp_path, code=1)
    assert "soundpiece-async[pytest]" in written
    assert "1 passed, 1 error" in written


def test_with_all_of_them_it_works(full: Environment, tmp_path: Path) -> None:
    """The installed command makes a piece, against the simulator of the installed plugin."""
    (tmp_path / "test_it.py").write_text(PIECE)
    assert "1 passed" in full.run("-m", "pytest", "-W", "error", tmp_path)
