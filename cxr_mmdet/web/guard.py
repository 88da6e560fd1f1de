"""The only requests that reach Gradio: the page's own, from its own origin, naming files that were uploaded here.

Gradio serves more than this page uses, checks the paths of files only where it was launched by itself, and answers
every origin. None of that is relied on: what is not listed here is not found, and a request's JSON is read, checked
and written anew, so that Gradio sees what was checked and nothing else.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cxr_mmdet.web.uploads import NOT_UPLOADED, UploadError, held_bytes, remove_unfinished, uploaded_file

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from cxr_mmdet.web.auth import App, Scope

MAX_JSON_BYTES = 1 << 20
"""Size of a request that is no upload: thresholds, verdicts and names of files."""

_SLACK_BYTES = 1 << 20
"""Bytes that an upload takes beside its files."""

HELD_UPLOADS = 8
"""Largest uploads that the folder of uploads holds at once; more could fill the disk."""

_SAFE = frozenset({"GET", "HEAD"})
_NAME = r"[\w.~-]+"
_READS = re.compile(
    rf"/|/config/?|/theme\.css|/favicon\.ico|/robots\.txt|/manifest\.json|/(?:assets|static|svelte)/.*"
    rf"|/download/{_NAME}/{_NAME}"
    rf"|/gradio_api/(?:info/?|startup-events|theme\.css|app_id/?|upload_progress|queue/data"
    rf"|heartbeat/{_NAME}|call/(?:v2/)?{_NAME}/{_NAME})"
)
_UPLOAD = "/gradio_api/upload"
_CALLS = re.compile(rf"/gradio_api/(?:queue/join|(?:run|api|call|call/v2)/{_NAME})/?")


class Guard:
    """ASGI middleware that refuses what the page and its programming interface do not use.

    Args:
        app: the page.
        folder: that holds what was uploaded.
        upload_bytes: of all files of one request.
        kept_s: seconds after which an upload that did not end is removed.
        hosts: names by which the page may be called, besides IP addresses; None: any name.
    """

    def __init__(
        self, app: App, folder: Path, *, upload_bytes: int, kept_s: float = 300, hosts: Collection[str] | None = None
    ) -> None:
        self._app = app
        self._folder = folder
        self._upload_bytes = upload_bytes
        self._kept_s = kept_s
        self._hosts = hosts
        self._arriving_bytes = 0

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Handle one connection."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # the page uses none
        else:
            try:
                scope, receive = await self._checked(scope, receive)
            except _RefusedError as refused:
                await _answer(send, refused.status, str(refused), head=scope["method"] == "HEAD")
            else:
                await (self._upload if scope["path"] == _UPLOAD else self._app)(scope, receive, send)

    async def _upload(self, scope: Scope, receive: Any, send: Any) -> None:
        """Take an upload, and have what remains of it removed should it not end: Gradio forgets such files."""
        length = int(_header(scope, b"content-length"))
        self._arriving_bytes += length
        try:
            await self._app(scope, receive, send)
        finally:
            self._arriving_bytes -= length
            loop = asyncio.get_running_loop()
            loop.call_later(self._kept_s + 1, remove_unfinished, self._folder, self._kept_s)

    async def _checked(self, scope: Scope, receive: Any) -> tuple[Scope, Any]:
        """Return what the page is handed instead of a request."""
        path, method = scope["path"], scope["method"]
        if is_foreign(scope):
            raise _RefusedError(403, "This page answers only to itself: the request comes from another site.")
        if self._hosts is not None and not _is_called(_header(scope, b"host"), self._hosts):
            raise _RefusedError(403, "This page has another name; whoever started it allows one by --allow-name.")
        if method in _SAFE and _READS.fullmatch(path):
            return scope, receive
        if method != "POST" or not (path == _UPLOAD or _CALLS.fullmatch(path)):
            raise _RefusedError(404, "There is nothing here.")
        length = _header(scope, b"content-length")
        most = self._upload_bytes + _SLACK_BYTES if path == _UPLOAD else MAX_JSON_BYTES
        # Beside a transfer coding the length would be ignored, and with it the limit.
        if not length.isdecimal() or _header(scope, b"transfer-encoding"):
            raise _RefusedError(411, "The request must state its length.")
        if int(length) > most:
            raise _RefusedError(413, f"The request is larger than {most >> 20} MiB; upload fewer radiographs.")
        if path == _UPLOAD:
            if held_bytes(self._folder) + self._arriving_bytes + int(length) > HELD_UPLOADS * most:
                raise _RefusedError(503, "The server holds as many uploads as it may; try again in some minutes.")
            return scope, receive
        body = await _read(receive, most)
        try:
            content = json.dumps(self._only_uploads(json.loads(body))).encode()
        except (ValueError, RecursionError):
            raise _RefusedError(400, "The request is not JSON.") from None
        except UploadError as error:
            raise _RefusedError(403, str(error)) from None
        named = [pair for pair in scope["headers"] if pair[0] not in (b"content-length", b"content-type")]
        added = [(b"content-length", str(len(content)).encode()), (b"content-type", b"application/json")]
        return {**scope, "headers": named + added}, _replay(content, receive)

    def _only_uploads(self, value: Any) -> Any:
        """Return a request with the resolved paths of the files that it names, and without addresses to fetch from.

        Raises:
            UploadError: it names anything but an uploaded file.
        """
        if isinstance(value, list):
            return [self._only_uploads(each) for each in value]
        if not isinstance(value, dict):
            return value
        if "path" in value:
            path = uploaded_file(value["path"], self._folder)
            value = {key: each for key, each in value.items() if key not in ("path", "url")}
            return {"path": str(path), **self._only_uploads(value)}
        if "url" in value:
            raise UploadError(NOT_UPLOADED)
        return {key: self._only_uploads(each) for key, each in value.items()}


class _RefusedError(Exception):
    """A request that is answered here.

    Args:
        status: of the answer.
        sentence: that it consists of.
    """

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def is_foreign(scope: Scope) -> bool:
    """Return whether another site's page has sent a request.

    Browsers say so in ``Sec-Fetch-Site``, unless the page came without TLS; then the origin's host must be ours. Links
    to the page have no origin and are followed; programs send neither header.
    """
    origin, site = _header(scope, b"origin"), _header(scope, b"sec-fetch-site")
    if scope["method"] in _SAFE and not origin:
        return False
    if site:
        return site not in ("same-origin", "none")
    try:
        return bool(origin) and urlsplit(origin).netloc.lower() != _header(scope, b"host").lower()
    except ValueError:
        return True


def _is_called(host: str, names: Collection[str]) -> bool:
    """Return whether a Host header is an IP address, or one of the names, with any port.

    Another name is that of a page elsewhere that has let its name point here (DNS rebinding); browsers take this page
    for its own. It cannot do so with an address.
    """
    name = re.sub(r":\d*$", "", host).strip("[]").rstrip(".").lower()
    try:
        return bool(ipaddress.ip_address(name))
    except ValueError:
        return name in names


def _header(scope: Scope, name: bytes) -> str:
    return next((value.decode("latin-1") for each, value in scope["headers"] if each == name), "")


async def _read(receive: Any, most: int) -> bytes:
    parts: list[bytes] = []
    more = True
    while more and sum(map(len, parts)) <= most:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)


def _replay(content: bytes, receive: Any) -> Any:
    waiting = [{"type": "http.request", "body": content, "more_body": False}]

    async def replayed() -> Any:
        return waiting.pop() if waiting else await receive()

    return replayed


async def _answer(send: Any, status: int, sentence: str, *, head: bool) -> None:
    # As FastAPI answers, so that pages and programs show the sentence.
    content = json.dumps({"detail": sentence}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if head else content})
