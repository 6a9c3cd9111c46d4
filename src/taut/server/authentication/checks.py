"""Asking a check: a function of the user's that knows who may come in.

It is called with credentials, and returns the principal; anything false refuses them.  ``PermissionError`` says that
they are right, and not enough.  Any other exception refuses too: it is logged once, with its traceback, in which no
secret is left.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias
from urllib.parse import quote

from .failures import Failure
from .hooks import AnyConnection, is_asynchronous_here

__all__ = ["Check", "awaited", "check_function", "is_coroutine_function", "judge", "must_wait"]

Check: TypeAlias = Callable[..., Any]


def is_coroutine_function(function: object) -> bool:
    """Whether calling it gives something to await, as far as that can be known before; ours tell it themselves."""
    if not callable(function):
        return False
    known = bool(getattr(function, "is_asynchronous", False)) or inspect.iscoroutinefunction(function)
    return known or inspect.iscoroutinefunction(type(function).__call__)


def check_function(option: str, value: object) -> None:
    """Refuse what cannot be asked. A generator is true whatever it would say, and would let everybody in."""
    if not callable(value):
        raise TypeError(f"{option} must be a function or a coroutine function, not {type(value).__name__}")
    if inspect.isgeneratorfunction(value) or inspect.isasyncgenfunction(value):
        raise TypeError(f"{option} must be a function or a coroutine function, not a generator function")


def must_wait(name: str, answer: Any) -> bool:
    """Whether ``answer`` of ``name`` has to be awaited; ``TypeError`` where nothing can."""
    if not inspect.isawaitable(answer):
        return False
    if not is_asynchronous_here():
        if isinstance(answer, Coroutine):
            answer.close()
        raise TypeError(f"{name} must not be a coroutine function on a blocking server: nothing there can await it")
    return True


async def awaited(name: str, answer: Any) -> Any:
    """``answer``, or what it gives when it is awaited."""
    return await answer if must_wait(name, answer) else answer


async def judge(
    connection: AnyConnection, name: str, check: Check, *credentials: Any, secrets: tuple[str, ...]
) -> tuple[Failure | None, Any]:
    """What the check says: None and the principal, or a failure and None.

    ``name``: of the hook. ``secrets``: what must not be logged.
    """
    try:
        principal = await awaited(f"the check of {name}", check(*credentials))
        return (None, principal) if principal else (Failure.WRONG, None)
    except Exception as exc:
        if isinstance(exc, PermissionError) and exc.errno is None:  # with a number, it is the system's
            return Failure.FORBIDDEN, None
        _report(connection, name, exc, secrets)
        return Failure.BROKEN, None


def _report(connection: AnyConnection, name: str, exc: Exception, secrets: tuple[str, ...]) -> None:
    told = "".join(traceback.format_exception(exc))
    hidden = told
    for secret in secrets:
        # An exception may show it as it is, by its repr, or encoded: KeyError does the second.
        for form in {secret, repr(secret)[1:-1], ascii(secret)[1:-1], quote(secret, safe="")} - {""}:
            hidden = hidden.replace(form, "***")
    if hidden == told:
        connection.logger.error("the check of %s failed", name, exc_info=exc)
    else:
        connection.logger.error("the check of %s failed\n%s", name, hidden.rstrip())
