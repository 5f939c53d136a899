"""``soundpiece probe``: experiments that answer what the API documentation leaves open."""

from soundpiece_async.cli.probe.command import probe

__all__ = ["probe"]
