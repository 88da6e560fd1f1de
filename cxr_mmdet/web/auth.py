"""Authentication: users and passwords in a file that only its owner reads, asked for by HTTP Basic on every request."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import ipaddress
import math
import os
import stat
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cxr_mmdet.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, MutableMapping
    from pathlib import Path

    Scope = MutableMapping[str, Any]
    App = Callable[[Scope, Any, Any], Awaitable[None]]


_MOST_KNOWN = 4096
"""Clients remembered as logged in."""


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


FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 60.0
"""Wait after the first wrong password, and what further ones double it up to."""
FORGOTTEN_S = 900.0
"""After which a wrong password no longer counts."""


@dataclass
class _Failures:
    count: int
    until: float


class Throttle:
    """Growing waits after wrong passwords, by client and by account; nothing is checked while one lasts.

    Args:
        most: clients and accounts remembered; those that failed longest ago go first.
        clock: in seconds.
    """

    def __init__(
        self,
        *,
        most: int = 4096,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most = most
        self._clock = clock
        self._failures: OrderedDict[tuple[str, str], _Failures] = OrderedDict()

    def __len__(self) -> int:
        return len(self._failures)

    def wait_s(self, client: str, account: str, *, known: bool = False) -> float:
        """Return the seconds until a password is checked again; 0 if it is now.

        Args:
            client: that asks.
            account: that it names.
            known: it has logged in there before, so that others' wrong passwords do not lock it out.
        """
        keys = self._keys(client, account)[: 1 if known else 2]
        ends = [each.until for key in keys if (each := self._failures.get(key))]
        return max(0.0, max(ends, default=0.0) - self._clock())

    def failed(self, client: str, account: str) -> float:
        """Count a wrong password; return the seconds that the next one waits."""
        now = self._clock()
        for key in self._keys(client, account):
            earlier = self._failures.pop(key, None)
            count = earlier.count + 1 if earlier and now < earlier.until + FORGOTTEN_S else 1
            self._failures[key] = _Failures(count, now + min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(count - 1, 30)))
            if len(self._failures) > self._most:
                self._failures.popitem(last=False)
        return self.wait_s(client, account)

    def succeeded(self, client: str, account: str) -> None:
        """Forget the wrong passwords of a client that knows the right one, and of the account."""
        for key in self._keys(client, account):
            self._failures.pop(key, None)

    @staticmethod
    def _keys(client: str, account: str) -> tuple[tuple[str, str], tuple[str, str]]:
        return ("client", client), ("account", account[:64])


class BasicAuth:
    """ASGI middleware that answers 401 to whoever is not in the file, later with each wrong password.

    Args:
        app: what is behind it.
        users: user → password.
        throttle: counts wrong passwords.
    """

    def __init__(self, app: App, users: Mapping[str, str], throttle: Throttle | None = None) -> None:
        self._app = app
        self._users = users
        self._throttle = Throttle() if throttle is None else throttle  # an empty one is false
        self._known: OrderedDict[tuple[str, str], None] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Handle one connection."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        client, user = _client(scope), _credentials(_authorization(scope))[0]
        known = (client, user) in self._known
        wait = self._throttle.wait_s(client, user, known=known)
        if wait and _authorization(scope):
            await _refuse(scope, send, 429, f"Too many wrong passwords; try again in {math.ceil(wait)} s.", wait)
            return
        if self.user_of(scope) is not None:
            if not known:
                # Once: the requests of who is logged in must not forget what others guess meanwhile.
                self._throttle.succeeded(client, user)
                self._known[client, user] = None
                if len(self._known) > _MOST_KNOWN:
                    self._known.popitem(last=False)
            await self._app(scope, receive, send)
            return
        if _authorization(scope):
            await asyncio.sleep(self._throttle.failed(client, user))
        await _refuse(scope, send, 401, "A user and password are needed.")

    def user_of(self, scope: Scope) -> str | None:
        """Return who sent a request, None when nobody we know."""
        user, password = _credentials(_authorization(scope))
        # Compared in any case, in constant time, so that time does not tell which users exist.
        right = hmac.compare_digest(password.encode(), self._users.get(user, "\0").encode())
        return user if right and user in self._users else None


def _authorization(scope: Scope) -> str:
    return next((value for name, value in scope["headers"] if name == b"authorization"), b"").decode("latin-1")


def _client(scope: Scope) -> str:
    """Return the address a request comes from; of IPv6 the network, in which a client has all addresses."""
    host = (scope.get("client") or ("",))[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return str(host)[:64]
    return str(ipaddress.ip_network((address, 64), strict=False)) if address.version == 6 else str(address)


async def _refuse(scope: Scope, send: Any, status: int, sentence: str, wait_s: float = 0.0) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    headers = [(b"content-type", b"text/plain")]
    if status == 401:
        headers.append((b"www-authenticate", b'Basic realm="cxr_mmdet", charset="UTF-8"'))
    else:
        headers.append((b"retry-after", str(math.ceil(wait_s)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": sentence.encode()})


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
