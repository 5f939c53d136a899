"""The commands of ``soundpiece``, and the parser of its command line."""

import ast
import inspect
import re
import shlex
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Literal, cast

from cyclopts import App, CycloptsError, MissingArgumentError, Parameter

from soundpiece_async._version import __version__
from soundpiece_async.cli.bulk import bulk, resume, work
from soundpiece_async.cli.bulk_options import LoadOptions, RunPolicy
from soundpiece_async.cli.bulk_ray import RayOptions
from soundpiece_async.cli.console import UsageError, print_result
from soundpiece_async.cli.demo import demo
from soundpiece_async.cli.doctor import doctor
from soundpiece_async.cli.get import get
from soundpiece_async.cli.jobs_file import STANDARD_INPUT
from soundpiece_async.cli.journal_options import JournalOptions
from soundpiece_async.cli.probe import probe
from soundpiece_async.cli.report.command import report
from soundpiece_async.cli.rich_output import PipeSafeConsole
from soundpiece_async.cli.run import RequestFlags, run
from soundpiece_async.cli.simulate import simulate
from soundpiece_async.cli.status import status
from soundpiece_async.cli.verify import verify


async def completion(shell: Literal["bash", "zsh", "fish"], /) -> None:
    """Print the script that lets a shell complete the commands and flags of soundpiece.

    For bash, add to ~/.bashrc: eval "$(soundpiece completion bash)". For zsh, write it to a file _soundpiece in a
    folder of $fpath. For fish, write it to ~/.config/fish/completions/soundpiece.fish.

    Args:
        shell: the shell.
    """
    print_result(app.generate_completion(prog_name="soundpiece", shell=shell))


app: App = App(
    name="soundpiece",
    version=__version__,
    help="Generate songs, instrumentals, samples, effects, remixes, stems and cut-downs with the Soundpiece API.",
    console=PipeSafeConsole(),
    help_format="plaintext",  # ours has no markup, and its parser is slow to import
    default_parameter=Parameter(negative=""),  # no --no-... and --empty-... flags: no option is on by default
)


def prepare_docstring(thing: Callable[..., Any]) -> None:
    """Prepare a docstring for the help: one line per argument, because the terminal wraps them.

    If ``PYTHONOPTIMIZE=2`` has removed the docstring, it is restored from the source.
    """
    text = thing.__doc__
    if text is None:
        try:
            (definition,) = ast.parse(inspect.getsource(thing)).body
        except (OSError, SyntaxError):  # no source, no help
            text = ""
        else:
            text = ast.get_docstring(cast("ast.FunctionDef | ast.ClassDef", definition), clean=False)
    thing.__doc__ = re.sub(r"\n {8,}(?=\S)", " ", inspect.cleandoc(str(text)))


def _help_text(command: Callable[..., Any]) -> str:
    """Return the help of a command, one line per paragraph: the terminal wraps it."""
    about = inspect.cleandoc(str(command.__doc__)).partition("\n\nArgs:")[0]
    return re.sub(r"(?<!\n)\n(?!\n)", " ", about)


COMMANDS: tuple[Callable[..., Any], ...] = (
    *(bulk, work, resume, status, verify, report, demo, get, run, simulate),
    *(completion, doctor, probe),
)
for _documented in (*COMMANDS, JournalOptions, LoadOptions, RayOptions, RequestFlags, RunPolicy):
    prepare_docstring(_documented)
for _command in COMMANDS:
    app.command(_command, help=_help_text(_command))


def _dash_hint(error: CycloptsError, arguments: Sequence[str]) -> str:
    """Return how to write a value that begins with a dash, if a flag lacks its value because of one."""
    if isinstance(error, MissingArgumentError) and error.app:
        flags = {name for argument in error.app.assemble_argument_collection() for name in argument.names}
        for flag, value in pairwise(arguments):
            if flag == error.keyword and value.startswith("-") and value.partition("=")[0] not in flags:
                return f" If {value} is the value, write {shlex.quote(f'{flag}={value}')}."
    return ""


def parse_command(arguments: Sequence[str]) -> Callable[[], Awaitable[int | None]] | None:
    """Return the command to run; None: help or version was printed.

    Raises:
        UsageError: the command line is invalid.
    """
    if arguments[:1] == ["bulk"]:  # cyclopts takes a lone dash for a flag
        arguments = [str(STANDARD_INPUT) if word == "-" else word for word in arguments]
    try:
        command, bound, _ = app.parse_args(arguments, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        words = " ".join(("soundpiece", *(error.command_chain or ())))
        raise UsageError(f"{error}{_dash_hint(error, arguments)} See: {words} --help") from error
    work = partial(command, *bound.args, **bound.kwargs)
    if inspect.iscoroutinefunction(command):
        return work
    work()
    return None
