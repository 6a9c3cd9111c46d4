"""Hooks of a session on every flavour of tasks, those that begin while they are made among them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from handfed import FLAVOURS, run

import taut
from taut.client.session.hooks import Hooks


def no_failure(failure: Exception) -> None:
    raise AssertionError(failure)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_all_news_are_told(flavour: str) -> None:
    heard: list[int] = []

    async def on_news(number: int) -> None:
        if number % 2:
            await asyncio.sleep(0)
        heard.append(number)

    async def scenario() -> None:
        hooks = Hooks(no_failure, {"on_news": on_news})
        for number in range(6):
            hooks.tell("on_news", number)
            if number % 3 == 0:
                await hooks.finish(None)
        await hooks.finish(None)

    run(scenario, flavour)
    assert heard == list(range(6))


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_factory_may_close_the_session(flavour: str) -> None:
    """Even at its very first step, when nobody may know its task yet."""

    async def scenario() -> None:
        async def factory(attempt: int) -> str:
            await session.close(4001, "not today")
            return "ws://localhost:1/"

        session = taut.Session(factory)
        with pytest.raises(taut.ConnectionClosedOK) as caught:
            await session
        assert caught.value.code == 4001
        assert session.state is taut.SessionState.CLOSED

    run(scenario, flavour)


def test_eager_tasks_as_far_as_they_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where this Python has none, a task that takes its first step at once stands for them."""
    heard: list[int] = []
    steps: list[Callable[[], Any]] = []

    class Task:
        """Has taken its first step before whoever makes it gets hold of it."""

        def __init__(self, work: Any) -> None:
            self.work = work
            self.step()

        def step(self) -> None:
            try:
                self.work.send(None)
                steps.append(self.step)
            except StopIteration:
                pass

    class Loop:
        create_task = staticmethod(Task)

    async def on_news(number: int) -> None:
        heard.append(number)

    monkeypatch.setattr("taut.client.session.hooks.asyncio.get_running_loop", Loop)
    hooks = Hooks(no_failure, {"on_news": on_news})
    for number in range(3):
        hooks.tell("on_news", number)
        while steps:
            steps.pop()()
    assert heard == [0, 1, 2]
