"""``python -m taut.cli``: the ``taut`` command where its script is not installed."""

from __future__ import annotations

import sys

from . import main

if __name__ == "__main__":
    sys.exit(main())
