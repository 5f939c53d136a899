"""``soundpiece probe``: the experiments that settle what the documentation leaves open."""

from soundpiece_async.cli.probe.command import probe

__all__ = ["probe"]
