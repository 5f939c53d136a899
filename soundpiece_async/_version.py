"""The version, which the build reads from here, so that the package also works without its metadata."""

__version__ = "0.1.0"
