"""The page as a web server: downloads beside it, headers that keep browsers from calling anybody else, passwords."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_mmdet.errors import CxrError
from cxr_mmdet.files import locked_folder
from cxr_mmdet.web.auth import BasicAuth
from cxr_mmdet.web.exports import Format, export
from cxr_mmdet.web.guard import Guard

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from cxr_mmdet.web.auth import App, Scope
    from cxr_mmdet.web.examples import Example
    from cxr_mmdet.web.room import ReadingRoom

UPLOADS_KEPT_S = 300
"""Uploads pass through a folder of the service's own; what was read is of no use there any more."""

_HEADERS = {
    # Gradio's page is put together by scripts of its own, some of them made from text.
    "content-security-policy": "default-src 'self'; img-src 'self' data: blob:; font-src 'self' data:; "
    "style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; connect-src 'self'; "
    "worker-src 'self' blob:; frame-ancestors 'self'; form-action 'self'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}

_PRIVATE = ("/download/", "/gradio_api/")
"""Paths below which responses hold patients' radiographs, which browsers must not cache."""


@contextmanager
def private_uploads() -> Iterator[None]:
    """Let Gradio put uploads in a folder that ends with the block, and let it call nobody.

    Gradio takes these from the environment only. Folders of servers that were killed go, too.
    """
    names = ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED", "HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY")
    before = {name: os.environ.get(name) for name in names}
    with locked_folder("cxr-uploads-") as folder:
        os.environ |= dict(zip(names, (str(folder), "False", "1", "1"), strict=True))
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def build_site(
    room: ReadingRoom,
    examples: list[Example],
    users: Mapping[str, str] | None = None,
    *,
    hosts: Collection[str] | None = None,
) -> App:
    """Return the ASGI application; call it within :func:`private_uploads`.

    Args:
        room: behind the page.
        examples: offered on it.
        users: user → password; None or empty: anybody may enter.
        hosts: names by which the page may be called, besides IP addresses; None: any name.
    """
    import gradio as gr
    from fastapi import FastAPI
    from fastapi.responses import PlainTextResponse, Response

    from cxr_mmdet.web.page import FOOTER, build_page, page_style

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    # Not async: making a file takes time, which a thread has.
    @app.get("/download/{token}/{kind}")
    def download(token: str, kind: Format) -> Response:
        try:
            file = export(room.cases.get(token), kind)
        except CxrError as error:
            return PlainTextResponse(str(error), status_code=404)
        headers = {"content-disposition": f'attachment; filename="{file.name}"'}
        return Response(file.content, media_type=file.media_type, headers=headers)

    folder = Path(os.environ["GRADIO_TEMP_DIR"]).resolve()
    page = build_page(room, examples, folder, upload_seconds=UPLOADS_KEPT_S)
    gr.mount_gradio_app(
        app,
        page,
        path="/",
        max_file_size=room.limits.total_bytes,
        app_kwargs={"openapi_url": None},
        footer_links=FOOTER,
        show_error=False,
        ssr_mode=False,
        enable_monitoring=False,
        **page_style(),
    )
    site: App = Guard(app, folder, upload_bytes=room.limits.total_bytes, kept_s=UPLOADS_KEPT_S, hosts=hosts)
    return _Headers(BasicAuth(site, users) if users else site)


def serve(site: App, *, host: str, port: int) -> None:
    """Answer requests until the process is told to end."""
    import uvicorn

    uvicorn.run(site, host=host, port=port, log_level="warning", timeout_graceful_shutdown=3)


class _Headers:
    """ASGI middleware that adds headers to every answer."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        async def send_with_headers(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                present = {name.lower() for name, _ in message.get("headers", [])}
                private = {"cache-control": "no-store"} if scope["path"].startswith(_PRIVATE) else {}
                added = [(name.encode(), value.encode()) for name, value in (_HEADERS | private).items()]
                message["headers"] = [
                    *message.get("headers", []),
                    *(pair for pair in added if pair[0] not in present),
                ]
            await send(message)

        await self._app(scope, receive, send_with_headers)
