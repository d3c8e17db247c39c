"""``python -m support.bench KIND NAME``: measure one row and print its numbers as JSON."""

import json
import sys

from support.bench import rows

print(json.dumps(rows()[sys.argv[1]][sys.argv[2]]()))
