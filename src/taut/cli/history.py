"""Where the prompt keeps what was typed: a file of the user's state folder that nobody else can read."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["history_file"]

_MOST = 1 << 18
"""The file is cut to half of this when it is larger (bytes)."""


def history_file() -> Path:
    """The file, created with mode 600 in a folder of mode 700 if need be. Raises ``OSError`` if there can be none."""
    state = os.environ.get("XDG_STATE_HOME", "")
    # The XDG specification wants relative paths ignored.
    folder = (Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state") / "taut"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / "history"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with open(descriptor, "r+b") as file:
        os.fchmod(descriptor, 0o600)
        if os.fstat(descriptor).st_size > _MOST:
            file.seek(-_MOST // 2, os.SEEK_END)
            # An entry begins with an empty line and a comment with its time.
            _, found, kept = file.read().partition(b"\n# ")
            file.seek(0)
            file.write(found + kept)
            file.truncate()
    return path
