"""``soundpiece completion``: what a shell needs to complete commands and flags."""

from typing import Literal

from soundpiece_async.cli.console import say


async def completion(shell: Literal["bash", "zsh", "fish"], /) -> None:
    """Print the script that lets a shell complete the commands and flags of soundpiece.

    For bash, add to ~/.bashrc: eval "$(soundpiece completion bash)". For zsh, write it to a file _soundpiece in a
    folder of $fpath. For fish, write it to ~/.config/fish/completions/soundpiece.fish.

    Args:
        shell: the shell.
    """
    from soundpiece_async.cli.commands import app  # noqa: PLC0415 - which imports this file

    say(app.generate_completion(prog_name="soundpiece", shell=shell))
