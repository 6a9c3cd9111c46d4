"""The certificate of a server, in files that are renewed while it runs."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from typing import Any

__all__ = ["ServerCertificate"]

Path = str | os.PathLike[str]


class ServerCertificate:
    """A certificate in files, and the TLS context that has it: ``serve(..., ssl=certificate.context)``.

    ``certificate``: a file in PEM format with the certificate, and the others of its chain behind it. ``key``: the file
    of its private key, None if it is in the same file. ``password``: for a key that is encrypted. The context is that
    of a server with the defaults of the standard library, and the protocol "http/1.1" (ALPN); everything else about it
    may be set.

    Raises ``OSError`` (``ssl.SSLError`` is one) when the files cannot be read or do not belong together, and
    ``ValueError`` when the key is encrypted and there is no password.
    """

    def __init__(self, certificate: Path, key: Path | None = None, *, password: str | None = None) -> None:
        untyped: dict[str, Any] = {"certificate": certificate, "key": certificate if key is None else key}
        for name, value in untyped.items():
            if not isinstance(value, str | os.PathLike):
                raise TypeError(f"{name} must be a path, not {value!r}")
        if password is not None and not isinstance(password, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"password must be a str or None, not {type(password).__name__}")  # it is a secret
        self._certificate = os.fspath(certificate)
        self._key = None if key is None else os.fspath(key)
        self._password = password
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._load(self._context)
        self._context.set_alpn_protocols(["http/1.1"])

    @property
    def context(self) -> ssl.SSLContext:
        """The context that has it, always the same."""
        return self._context

    def reload(self) -> None:
        """Load the files again: new connections get what is in them now, those that are open go on.

        Raises as the constructor does, and then the certificate in use stays.
        """
        # A certificate without its key would leave the context in use with neither the new pair nor the old one.
        self._load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        self._load(self._context)

    def _load(self, context: ssl.SSLContext) -> None:
        context.load_cert_chain(
            self._certificate, self._key, self._password if self._password is not None else _ENCRYPTED
        )


def _no_password() -> str:
    """In the place of OpenSSL, which would ask for it on the terminal."""
    raise ValueError("the private key is encrypted, and there is no password")


_ENCRYPTED: Callable[[], str] = _no_password
