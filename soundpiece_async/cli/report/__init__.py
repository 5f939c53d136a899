"""The report of a bulk run: ``report.html`` for people and ``report.json`` for programs."""

from soundpiece_async.cli.report.writer import write_report

__all__ = ["write_report"]
