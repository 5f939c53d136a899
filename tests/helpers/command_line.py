"""Arguments of Python that run the command line in another process."""

import json

CLI = ["-c", "import sys; from soundpiece_async.cli import main; sys.exit(main(sys.argv[1:]))"]
_EACH = """
import json, sys
from soundpiece_async.cli import main
for words in json.loads(sys.argv[1]):
    code = main(words)
    if code:
        sys.exit(code)
"""


def commands(*each: list[str]) -> list[str]:
    """Run several commands in one process, as starting one takes long; the first that fails ends it."""
    return ["-c", _EACH, json.dumps(each)]
