"""``any_of`` and ``all_of``: several ways in, and several hurdles.

Both take authentication hooks and functions of the user's own for ``process_request``.  Such a function knows nothing
of authentication, so its None cannot stand for "this is somebody": among ``any_of`` it lets in only if it has set
``principal``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from ...types import Request, Response
from .checks import awaited, is_coroutine_function
from .failures import Failure, Refusal
from .hooks import AnyConnection, Hook

__all__ = ["AllOf", "AnyOf", "all_of", "any_of"]

RequestHook: TypeAlias = Callable[[Any, Request], Any]


class _Composition(Hook):
    """Hooks that take their credentials together."""

    __slots__ = ("_hooks",)

    def __init__(self, hooks: Sequence[RequestHook]) -> None:
        if not hooks:
            raise ValueError(f"hooks: {self.name} needs at least one")
        for hook in hooks:
            if not callable(hook):
                raise TypeError(f"hooks: {self.name} takes what process_request takes, not {type(hook).__name__}")
        self._hooks = tuple(hooks)

    def take(self, connection: AnyConnection, request: Request) -> list[Any]:
        return [hook.take(connection, request) if isinstance(hook, Hook) else None for hook in self._hooks]

    @property
    def is_asynchronous(self) -> bool:
        return any(map(is_coroutine_function, self._hooks))


async def _pass(hook: RequestHook, connection: AnyConnection, request: Request, taken: Any) -> Refusal | None:
    if isinstance(hook, Hook):
        return await hook.decide(connection, request, taken)
    response: Response | None = await awaited("a hook", hook(connection, request))
    return None if response is None else Refusal(Failure.FORBIDDEN, "a hook", response=response)


class AllOf(_Composition):
    """Every hook has to let the request pass."""

    __slots__ = ()

    name = "all_of"

    async def decide(self, connection: AnyConnection, request: Request, taken: list[Any]) -> Refusal | None:
        for hook, each in zip(self._hooks, taken, strict=True):
            refusal = await _pass(hook, connection, request, each)
            if refusal is not None:
                return refusal
        return None


class AnyOf(_Composition):
    """The first hook that lets somebody in decides."""

    __slots__ = ()

    name = "any_of"

    async def decide(self, connection: AnyConnection, request: Request, taken: list[Any]) -> Refusal | None:
        refusals: list[Refusal] = []
        for hook, each in zip(self._hooks, taken, strict=True):
            connection.principal = None  # one that is refused by what comes after it in an all_of leaves its own
            refusal = await _pass(hook, connection, request, each)
            if refusal is None:
                if connection.principal is not None:
                    return None
                refusal = Refusal(Failure.ABSENT, "a hook: no principal")
            elif refusal.failure.final:
                return refusal
            refusals.append(refusal)
        return _joined(refusals)


def _joined(refusals: list[Refusal]) -> Refusal:
    """What somebody is told whom none of the hooks lets in.

    That they are not permitted, if one of them knows who it is; else, by every challenge there is, what they may show;
    else what the first function of the user's said.
    """
    kind = "; ".join(refusal.kind for refusal in refusals)
    for refusal in refusals:
        if refusal.failure is Failure.FORBIDDEN and refusal.response is None:
            return Refusal(Failure.FORBIDDEN, kind, refusal.challenges)
    challenges = tuple(challenge for refusal in refusals for challenge in refusal.challenges)
    if challenges:
        return Refusal(Failure.ABSENT, kind, challenges)
    response = next((refusal.response for refusal in refusals if refusal.response is not None), None)
    return Refusal(Failure.ABSENT, kind, response=response)


def any_of(*hooks: RequestHook) -> AnyOf:
    """Let in whoever one of these hooks lets in, asked in this order: for ``process_request``.

    ``hooks``: authentication hooks; a function of one's own lets somebody in by setting ``ws.principal`` and returning
    None. A check that fails with an exception, and credentials that can be read in two ways, end it at once. Nobody
    else is let in: the answer has the challenges of all hooks.

    Raises ``TypeError`` or ``ValueError`` for a wrong argument.
    """
    return AnyOf(hooks)


def all_of(*hooks: RequestHook) -> AllOf:
    """Let in whoever passes every one of these hooks, called in this order: for ``process_request``.

    ``hooks``: authentication hooks, and functions of one's own, which see ``ws.principal`` as it is by then. The first
    response that one of them returns is the answer.

    Raises ``TypeError`` or ``ValueError`` for a wrong argument.
    """
    return AllOf(hooks)
