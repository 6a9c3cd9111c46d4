"""The command line of a worker, and how its end is told."""

from __future__ import annotations

import pytest

from taut.workers.child import interpreter_options


@pytest.mark.parametrize(
    ("line", "options"),
    [
        ("python -m taut serve app:x", ""),
        ("python /usr/bin/taut serve app:x --workers 2", ""),
        ("python -X dev -W error -m taut serve", "-X dev -W error"),
        ("python -Xdev -Werror -O /usr/bin/taut -X dev", "-Xdev -Werror -O"),
        ("python -OOBX importtime -m taut", "-OOBX importtime"),
        ("python -Im taut -O", "-I"),
        ("python -uc pass -O", "-u"),
        ("python -bb -E -- program.py", "-bb -E"),
        ("python --check-hash-based-pycs always -m taut", ""),
        ("python", ""),
    ],
)
def test_options_of_the_interpreter(line: str, options: str) -> None:
    assert interpreter_options(line.split()) == options.split()
