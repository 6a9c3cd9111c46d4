"""Run the attack tests, and print what each costs as a table in Markdown: ``make attacks``.

Beside what the tests measure themselves, a healthy client in a process of its own tells how long it waits for an
answer: for a second before an attack, and while that lasts.  For figures worth stating, nothing else should run.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import statistics
import sys
from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path

import pytest
import victim

_QUIET = 1.0
_TESTS = Path(__file__).with_name("server") / "test_attacks.py"


@dataclass
class Figures:
    """What one attack has cost."""

    name: str
    lasted: float
    allowed: int
    used: int
    before: list[float]
    during: list[float]

    def row(self) -> str:
        memory = f"{self.used / 2**20:.1f} MiB | {self.allowed / 2**20:.1f} MiB"
        return f"| {self.name} | {self.lasted:.2f} s | {memory} | {latency(self.before)} | {latency(self.during)} |"


def latency(times: list[float]) -> str:
    """The median, the 99th percentile and the longest (milliseconds)."""
    if not times:
        return "-"
    times = sorted(times)
    chosen = (statistics.median(times), times[len(times) * 99 // 100], times[-1])
    return " / ".join(f"{1000 * value:.2f}" for value in chosen)


class Observer:
    """Watches each attack that the tests make."""

    def __init__(self) -> None:
        self.seen: list[Figures] = []

    async def attack(self, it: victim.Victim, attack: Awaitable[None], allowed: int) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(Path(__file__).with_name("healthy.py")),
            str(it.port),
            *(["tls"] if it.tls is not None else []),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=1 << 26,
        )
        assert process.stdin is not None
        assert process.stdout is not None

        async def times() -> list[float]:
            process.stdin.write(b"\n")
            found: list[float] = json.loads(await process.stdout.readline())
            return found

        await times()
        await asyncio.sleep(_QUIET)
        before = await times()
        usual, begun = it.memory(), asyncio.get_running_loop().time()
        try:
            await attack
            lasted = asyncio.get_running_loop().time() - begun
            during = await times()
        finally:
            process.stdin.close()
            await process.wait()
        name = re.sub(r".*::test_(.*) \(call\)", r"\1", os.environ["PYTEST_CURRENT_TEST"])
        self.seen.append(Figures(name, lasted, allowed, it.memory("VmHWM") - usual, before, during))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """The table."""
        write = terminalreporter.write_line
        write("")
        write("Times of a healthy client: median / 99th percentile / longest, in milliseconds.")
        write("")
        write("| attack | lasted | memory | bound | before | during |")
        write("| --- | --- | --- | --- | --- | --- |")
        for figures in self.seen:
            write(figures.row())


def main() -> int:
    observer = victim.observer = Observer()
    return pytest.main(["-q", "-p", "no:cacheprovider", str(_TESTS), *sys.argv[1:]], plugins=[observer])


if __name__ == "__main__":
    sys.exit(main())
