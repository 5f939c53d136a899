"""``python -m soundpiece_async``: the command line ``soundpiece``."""

import sys

from soundpiece_async.cli import main

if __name__ == "__main__":
    sys.exit(main())
