"""``taut serve`` with and without workers, as processes of their own, with real signals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from supervised import APP, Supervised

Start = Callable[..., Supervised]


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """The module ``app.py``, whose ``handler`` answers with its process and the message."""
    path = tmp_path / "app.py"
    path.write_text(APP)
    return path


@pytest.fixture
def start(app: Path) -> Iterator[Start]:
    """Start ``taut serve`` with these arguments, in the folder of ``app``."""
    processes: list[Supervised] = []

    def start_process(*arguments: str, **options: Any) -> Supervised:
        processes.append(Supervised(app.parent, *arguments, **options))
        return processes[-1]

    yield start_process
    for process in processes:
        process.kill()
