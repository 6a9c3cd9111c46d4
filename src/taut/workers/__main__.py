"""``python -m taut.workers``: a worker, started by the process above it and by nobody else."""

from __future__ import annotations

import sys

from .worker import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
