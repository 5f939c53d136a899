"""``python -m soundpiece_async``: the command line ``soundpiece``."""

import sys

from soundpiece_async.cli import main

sys.exit(main())
