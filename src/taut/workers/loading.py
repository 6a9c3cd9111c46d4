"""What ``MODULE:ATTRIBUTE`` names: found, imported, and made into what ``serve`` takes.

A name that leads nowhere is a mistake in the command, told in one line: ``LoadError``.  An exception that the module
raises while it is imported is a mistake in the module, and passes through as it is.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Any, cast

__all__ = ["LoadError", "StartError", "check_name", "load", "made", "of_the_module"]


class StartError(Exception):
    """What was to be served could not be started; the text says why."""


class LoadError(StartError):
    """What is to be served cannot be found; the text says what is missing, and where it was looked for."""


def check_name(app: str) -> tuple[str, str]:
    """Module and attribute of ``app``. Raises ``ValueError`` for what is not MODULE:ATTRIBUTE."""
    module, colon, attribute = app.partition(":")
    if not colon or not all(part.isidentifier() for part in [*module.split("."), *attribute.split(".")]):
        raise ValueError(f"app must be MODULE:ATTRIBUTE, such as chat.main:router, not {app!r}")
    return module, attribute


def load(app: str, directory: str) -> Any:
    """The object that ``app`` names, with ``directory`` first among the places where modules are looked for."""
    name, attributes = check_name(app)
    directory = os.path.abspath(directory)
    if sys.path[:1] != [directory]:
        sys.path.insert(0, directory)
    try:
        found: Any = importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name is None or not f"{name}.".startswith(f"{exc.name}."):
            raise  # one that the module itself imports
        raise LoadError(f"there is no module {exc.name!r} in {directory}, or anywhere else on sys.path") from None
    path = name
    for attribute in attributes.split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError:
            raise LoadError(f"{path} has no attribute {attribute!r}") from None
        path += f".{attribute}"
    return found


@asynccontextmanager
async def made(found: Any, app: str, factory: bool) -> AsyncGenerator[Any]:
    """What to serve: ``found`` itself, or what it makes if it is a factory.

    A factory is called without arguments; it returns what to serve, or an awaitable of that, or an asynchronous context
    manager that gives it, which is left once the last connection is closed.
    """
    if not factory:
        yield found
        return
    if not callable(found):
        raise LoadError(f"{app} is no factory: {found!r} cannot be called")
    result: Any = found()
    if isinstance(result, AbstractAsyncContextManager):
        async with cast("AbstractAsyncContextManager[Any]", result) as product:
            yield product
    else:
        yield await result if inspect.isawaitable(result) else result


def of_the_module(exc: BaseException) -> TracebackType | None:
    """The traceback from where the module begins, without the way that leads there through this library."""
    traceback = exc.__traceback__
    while traceback is not None:
        package = str(traceback.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
        if package not in _ON_THE_WAY:
            return traceback
        traceback = traceback.tb_next
    return None if isinstance(exc, SyntaxError) else exc.__traceback__


_ON_THE_WAY = {"asyncio", "contextlib", "importlib", "taut", "uvloop"}
