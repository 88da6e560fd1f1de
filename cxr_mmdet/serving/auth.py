"""Who may enter: users and passwords in a file that only its owner reads, asked for by HTTP Basic on every request."""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import stat
from typing import TYPE_CHECKING, Any

from cxr_mmdet.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, MutableMapping
    from pathlib import Path

    Scope = MutableMapping[str, Any]
    App = Callable[[Scope, Any, Any], Awaitable[None]]


def read_users(path: Path) -> dict[str, str]:
    """Return user → password of a file with a line ``user:password`` for each.

    Raises:
        UsageError: it is missing, readable by others, or says something else.
    """
    try:
        mode = path.stat().st_mode
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: is not UTF-8 text; expected lines of the form user:password.") from None
    if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise UsageError(f"{path}: holds passwords and others can read it; chmod 600 {path}")
    users: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        user, colon, password = line.partition(":")
        if not colon or not user.strip() or not password:
            raise UsageError(f"{path}, line {number}: expected user:password.")
        users[user.strip()] = password
    if not users:
        raise UsageError(f"{path}: names no user; expected lines of the form user:password.")
    return users


class BasicAuth:
    """ASGI middleware that answers 401 to whoever is not in the file.

    Args:
        app: what is behind it.
        users: user → password.
    """

    def __init__(self, app: App, users: Mapping[str, str]) -> None:
        self._app = app
        self._users = users

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Handle one connection."""
        if scope["type"] == "lifespan" or self.user_of(scope) is not None:
            await self._app(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = [(b"www-authenticate", b'Basic realm="cxr_mmdet", charset="UTF-8"'), (b"content-type", b"text/plain")]
        await send({"type": "http.response.start", "status": 401, "headers": headers})
        await send({"type": "http.response.body", "body": b"A user and password are needed."})

    def user_of(self, scope: Scope) -> str | None:
        """Return who sent a request, None when nobody we know."""
        header = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        user, password = _credentials(header.decode("latin-1"))
        # Compared in any case, in constant time, so that time does not tell which users exist.
        right = hmac.compare_digest(password.encode(), self._users.get(user, "\0").encode())
        return user if right and user in self._users else None


def user_in(authorization: str) -> str | None:
    """Return the user that a request's header names, once :class:`BasicAuth` has let it pass."""
    return _credentials(authorization)[0] or None


def _credentials(authorization: str) -> tuple[str, str]:
    kind, _, encoded = authorization.partition(" ")
    if kind.lower() != "basic":
        return "", ""
    try:
        user, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    return user, password
