"""The counts of one server among those that Redis keeps for all: a worker, in the words of ``scripts``.

What is true of this server is in ``_own``, here.  Redis has a copy of that, under an id and on a lease: renewing it,
telling what has changed and asking whether one more may come are one round trip, made by one task over one connection,
with as many questions as have gathered meanwhile.  Questions wait for no longer than ``timeout``.

When anything goes wrong (no answer in time, a lost connection, a Redis that has forgotten us), nobody knows what of a
round trip was done.  So nothing is mended: the id is given up, and a new one begins with what is true here.  A command
that arrives late bears the old id, and does nothing.  Until then Redis is away, and questions are answered here.

No connection may be counted twice, or stay counted when it is gone: a question whose asker has left while it was on its
way is taken back when its answer comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ..bucket import BURST, TokenBucket
from .limits import RedisLimits, script_is_unknown
from .scripts import ADMIT, RENEW, keys

__all__ = ["AWAY", "RATE", "Ledger", "Place"]

AWAY = "shared_limits_away"
RATE = "shared_handshake_rate"
_QUESTIONS = 256
"""How many questions are in one round trip, at the most."""
_FIELDS = 1000
"""How many changes of counts are in one command, at the most: nobody else is served while it runs."""
_FIRST_PAUSE, _LAST_PAUSE = 0.1, 5.0
"""How long Redis is left alone when something has gone wrong, growing from one to the other (seconds)."""


class Place(NamedTuple):
    """A place for a connection: the limit that it counts for, what it is counted under, how many there may be."""

    limit: str
    field: str
    most: int


class _Question:
    """Whether all of these places can be had."""

    __slots__ = ("answer", "places", "rated")

    def __init__(self, places: Sequence[Place], rated: bool, answer: asyncio.Future[str | None]) -> None:
        self.places = places
        self.rated = rated
        self.answer = answer  # None for yes, else the limit, or AWAY


class _Forgotten(Exception):
    """Redis does not know our id any more."""


class Ledger:
    """What one server has taken of the limits that are shared."""

    def __init__(self, limits: RedisLimits, loop: asyncio.AbstractEventLoop, logger: logging.Logger) -> None:
        self._limits = limits
        self._loop = loop
        self._logger = logger
        rate = limits.handshake_rate
        self._bucket = None if rate is None else TokenBucket(rate, loop.time())
        self._patience = 4 * limits.timeout  # for a round trip: a loop that is busy for a moment is no reason to go
        self._own: Counter[str] = Counter()
        self._changes: Counter[str] = Counter()  # what Redis has not been told of ``_own``
        self._questions: deque[_Question] = deque()
        self._asked: Sequence[_Question] = ()  # those that are on their way
        self._work = asyncio.Event()
        self._tried = asyncio.Event()
        self._id = ""
        self._is_present = self._was_away = self._closing = False
        self._pause = _FIRST_PAUSE
        self._task: asyncio.Task[None] | None = None

    @property
    def is_present(self) -> bool:
        """Whether Redis answers."""
        return self._is_present

    async def start(self) -> None:
        """Begin, and wait for Redis a moment; without it, go on as ``when_away`` says."""
        self._task = self._loop.create_task(self._run())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._patience):
                await self._tried.wait()

    async def close(self) -> None:
        """Give everything back, and leave."""
        task, self._task = self._task, None
        if task is None:
            return
        self._closing = True
        self._work.set()
        if self._is_present:
            await asyncio.wait([task], timeout=self._patience)
        task.cancel()
        await asyncio.wait([task])

    # -- places ------------------------------------------------------------------------------------------------

    async def take(self, places: Sequence[Place], *, rated: bool) -> str | None:
        """Take all of these places, and with ``rated`` one of the handshakes: None, or the limit that forbids it.

        Cancelling it takes nothing.
        """
        if not self._is_present:
            return self._take_here(places, rated)
        question = _Question(places, rated, self._loop.create_future())
        self._questions.append(question)
        self._work.set()
        try:
            async with asyncio.timeout(self._limits.timeout):
                answer = await question.answer
        except BaseException as exc:
            # The answer may have come in the same turn of the loop.
            taken = question.answer.done() and not question.answer.cancelled() and question.answer.result() is None
            if isinstance(exc, TimeoutError):
                return None if taken else self._take_here(places, rated)
            if taken:
                self.give_back(place.field for place in places)
            raise
        return self._take_here(places, rated) if answer == AWAY else answer

    def _take_here(self, places: Sequence[Place], rated: bool) -> str | None:
        """The same, without Redis."""
        if self._limits.when_away == "refuse":
            return AWAY
        for place in places:
            if self._own[place.field] >= place.most:
                return place.limit
        if rated and self._bucket is not None and not self._bucket.take(self._loop.time()):
            return RATE
        for place in places:
            self._own[place.field] += 1
            self._changes[place.field] += 1
        self._work.set()
        return None

    def give_back(self, fields: Iterable[str]) -> None:
        """Places that were taken are free again."""
        for field in fields:
            self._own[field] -= 1
            self._changes[field] -= 1
            if not self._own[field]:
                del self._own[field]
        self._work.set()

    # -- the task ----------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while not self._closing:
            client = self._limits.client()
            try:
                await self._keep(client)
            except Exception as exc:  # of redis-py, of the network, or ours: questions are answered in any case
                self._go_away(exc)
            finally:
                self._go_away(None)
                await self._drop(client)
            if not self._closing:
                await asyncio.sleep(self._pause * random.uniform(0.5, 1.0))
                self._pause = min(2 * self._pause, _LAST_PAUSE)

    async def _keep(self, client: Any) -> None:
        """Tell and ask, until something goes wrong or this is closed."""
        while not self._closing:
            await self._begin(client)
            try:
                while not self._closing:
                    await self._exchange(client)
                    self._pause = _FIRST_PAUSE
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(self._limits.lease / 3):
                            await self._work.wait()
            except _Forgotten:
                self._logger.info("shared limits: Redis has forgotten this server, which begins again")
        self._is_present = False
        async with asyncio.timeout(self._patience):
            await self._end(client.pipeline(transaction=False)).execute()

    def _end(self, pipeline: Any) -> Any:
        """Commands that give up our id."""
        workers, own, _ = keys(self._limits.prefix, self._id)
        pipeline.zrem(workers, self._id)
        pipeline.unlink(own)
        return pipeline

    async def _begin(self, client: Any) -> None:
        """Take a new id, with all that is true here."""
        pipeline = client.pipeline(transaction=False)
        if self._id:
            self._end(pipeline)
        self._id = secrets.token_hex(8)
        for script in (RENEW, ADMIT):
            pipeline.script_load(script.text)
        self._changes.clear()
        counts = list(self._own.items())
        for start in range(0, max(len(counts), 1), _FIELDS):
            self._add_renewal(pipeline, 1, counts[start : start + _FIELDS])
        async with asyncio.timeout(self._patience):
            await pipeline.execute()
        self._is_present = True
        self._tried.set()
        if self._was_away:
            self._was_away = False
            self._logger.warning("shared limits: Redis is back")

    async def _exchange(self, client: Any) -> None:
        """One round trip; raises ``_Forgotten`` if nothing of it was done, or nothing from some point on."""
        self._work.clear()
        asked = self._asked = self._next_questions()
        pipeline = client.pipeline(transaction=False)
        self._add_renewal(pipeline, 0, self._next_changes())
        if self._questions or self._changes:
            self._work.set()
        for question in asked:
            self._add_question(pipeline, question)
        try:
            async with asyncio.timeout(self._patience):
                known, *answers = await pipeline.execute()
        except Exception as exc:
            if not script_is_unknown(exc):
                raise
            known, answers = 0, [-1] * len(asked)
        self._asked = ()
        again = [
            question for question, answer in zip(asked, answers, strict=True) if not self._settle(question, answer)
        ]
        self._questions.extendleft(reversed(again))
        if not known or again:
            raise _Forgotten

    def _next_questions(self) -> list[_Question]:
        asked: list[_Question] = []
        while self._questions and len(asked) < _QUESTIONS:
            question = self._questions.popleft()
            if not question.answer.done():
                asked.append(question)
        return asked

    def _next_changes(self) -> list[tuple[str, int]]:
        changes: list[tuple[str, int]] = []
        while self._changes and len(changes) < _FIELDS:
            field, change = self._changes.popitem()
            if change:
                changes.append((field, change))
        return changes

    def _add_renewal(self, pipeline: Any, begin: int, changes: Iterable[tuple[str, int]]) -> None:
        workers, own, _ = keys(self._limits.prefix, self._id)
        told = [each for change in changes for each in change]
        pipeline.evalsha(RENEW.digest, 2, workers, own, self._id, self._lease, begin, *told)

    def _add_question(self, pipeline: Any, question: _Question) -> None:
        workers, own, bucket = keys(self._limits.prefix, self._id)
        stem = own.removesuffix(self._id)
        rate = (self._limits.handshake_rate or 0.0) if question.rated else 0.0
        wanted = [each for place in question.places for each in (place.field, place.most)]
        size = max(rate * BURST, 1.0)
        pipeline.evalsha(ADMIT.digest, 3, workers, own, bucket, self._id, self._lease, stem, rate, size, *wanted)

    @property
    def _lease(self) -> int:
        return int(self._limits.lease * 1000)

    def _settle(self, question: _Question, answer: int) -> bool:
        """Take note of an answer; False if there is none, as we were forgotten."""
        if answer < 0:
            return False
        places = question.places
        if answer == 0:
            self._own.update(place.field for place in places)
            if question.answer.done():  # whoever has asked is gone
                self.give_back(place.field for place in places)
        if not question.answer.done():
            refused = None if answer == 0 else places[answer - 1].limit if answer <= len(places) else RATE
            question.answer.set_result(refused)
        return True

    def _go_away(self, problem: Exception | None) -> None:
        """Redis is away: nobody waits for it."""
        self._is_present = False
        self._tried.set()
        for question in (*self._asked, *self._questions):
            if not question.answer.done():
                question.answer.set_result(AWAY)
        self._asked = ()
        self._questions.clear()
        if problem is not None and not self._was_away and not self._closing:
            self._was_away = True
            what = str(problem) or type(problem).__name__
            then = "no connection is let in" if self._limits.when_away == "refuse" else "this server goes by its own"
            self._logger.warning("shared limits: Redis is away, %s: %s", then, what)

    async def _drop(self, client: Any) -> None:
        with contextlib.suppress(Exception):
            async with asyncio.timeout(self._patience):
                await client.aclose()
