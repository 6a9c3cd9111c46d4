"""Why somebody is not let in, and what they are told of it."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from http import HTTPStatus

from ...types import Response

__all__ = ["Failure", "Refusal"]


class Failure(enum.Enum):
    """What may go wrong: its name in the log, the status it is answered with, the error of RFC 6750, 3.1."""

    ABSENT = ("no credentials", 401, None)
    WRONG = ("wrong credentials", 401, "invalid_token")
    FORBIDDEN = ("not permitted", 403, "insufficient_scope")
    AMBIGUOUS = ("ambiguous credentials", 400, "invalid_request")
    BROKEN = ("the check failed", 500, None)

    def __init__(self, kind: str, status: int, error: str | None) -> None:
        self.kind = kind
        self.status = HTTPStatus(status)
        self.error = error

    @property
    def final(self) -> bool:
        """Whether no other way in is tried after it."""
        return self in (Failure.AMBIGUOUS, Failure.BROKEN)


@dataclass(frozen=True, slots=True)
class Refusal:
    """That somebody is not let in.

    ``kind``: for the log. ``challenges``: the WWW-Authenticate headers. ``response``: the answer of a function of the
    user's, which is sent as it is.
    """

    failure: Failure
    kind: str
    challenges: tuple[str, ...] = ()
    response: Response | None = None

    @property
    def status(self) -> HTTPStatus:
        """What it is answered with: no 401 without a challenge, which RFC 9110, 15.5.2 demands."""
        status = self.failure.status
        return HTTPStatus.FORBIDDEN if status == HTTPStatus.UNAUTHORIZED and not self.challenges else status
