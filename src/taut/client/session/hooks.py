"""Calls what the user of a session gave to be called, coroutine functions or not.

``ask`` waits for the answer; it is for the task that supervises the session.  ``tell`` is for news, and can be called
from anywhere: the hook runs at once, and what it returns, if that is to be awaited, is awaited by a task of its own,
one after the other in the order of the news.  When such a hook raises, ``failed`` is called.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias, TypeGuard

from ..connecting import Connecting

__all__ = ["Hook", "HookFailed", "Hooks", "is_to_be_awaited"]

Hook: TypeAlias = Callable[..., object]


def is_to_be_awaited(answer: object) -> TypeGuard[Awaitable[Any]]:
    """Whether this is what a coroutine function returns; ``connect(...)`` can be awaited as well, but is an answer."""
    return inspect.isawaitable(answer) and not isinstance(answer, Connecting)


class HookFailed(Exception):
    """A hook raised ``error``."""

    def __init__(self, name: str, error: Exception) -> None:
        super().__init__(name, error)
        self.name = name
        self.error = error

    def __str__(self) -> str:
        return f"{self.name} failed"


class Hooks:
    """The hooks of one session, each None or to be called. Raises ``TypeError`` for anything else."""

    def __init__(self, failed: Callable[[HookFailed], None], hooks: Mapping[str, Hook | None]) -> None:
        for name, hook in hooks.items():
            if hook is not None and not callable(hook):
                raise TypeError(f"{name} must be a function, a coroutine function or None, not {hook!r}")
        self._hooks = hooks
        self._failed = failed
        self._awaited: deque[tuple[str, Awaitable[object]]] = deque()
        self._task: asyncio.Task[None] | None = None

    async def ask(self, name: str, *arguments: object) -> object:
        """What the hook answers, None if there is no such hook. Raises ``HookFailed``."""
        hook = self._hooks[name]
        if hook is None:
            return None
        try:
            answer = hook(*arguments)
            return await answer if is_to_be_awaited(answer) else answer
        except Exception as exc:
            raise HookFailed(name, exc) from exc

    def tell(self, name: str, *arguments: object) -> None:
        """Call the hook, if there is one."""
        hook = self._hooks[name]
        if hook is None:
            return
        try:
            answer = hook(*arguments)
        except Exception as exc:
            self._failed(HookFailed(name, exc))
            return
        if is_to_be_awaited(answer):
            self._awaited.append((name, answer))
            if self._task is None:
                self._task = asyncio.get_running_loop().create_task(self._run())

    def running_in(self, task: asyncio.Task[Any] | None) -> bool:
        """Whether this task runs hooks that were told something."""
        return task is not None and task is self._task

    async def finish(self, patience: float | None) -> None:
        """Wait for what is still to be awaited, at most for ``patience`` (seconds); then it is cancelled."""
        if (task := self._task) is None:
            return
        try:
            await asyncio.wait({task}, timeout=patience)
        finally:
            task.cancel()
        await asyncio.wait({task})

    async def _run(self) -> None:
        try:
            await asyncio.sleep(0)  # a loop may run the first step of a task in the middle of creating it
            while self._awaited:
                name, answer = self._awaited.popleft()
                try:
                    await answer
                except Exception as exc:
                    self._failed(HookFailed(name, exc))
        finally:
            self._task = None
            for _, answer in self._awaited:
                if inspect.iscoroutine(answer):
                    answer.close()
            self._awaited.clear()
