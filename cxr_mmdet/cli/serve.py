"""``serve MODEL``: a web page to review and judge the findings of a model."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cxr_mmdet.cli.app import (
    CxrTyper,
    DeviceOption,
    ModelArgument,
    ModelShortEdgeOption,
    TrustOption,
    quiet_imports,
    stderr,
    stdout,
)
from cxr_mmdet.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

app = CxrTyper(help=__doc__)

LOCAL_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})


@app.command(no_args_is_help=True)
def serve(
    model: ModelArgument,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 7860,
    store: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|URL",
            envvar="CXR_STORE",
            help="Keep predictions and verdicts in this folder (SQLite) or database, such as "
            "postgresql+pg8000://user@host/name. Images are not kept.",
            show_default="nothing is kept",
        ),
    ] = None,
    keep_identity: Annotated[
        bool, typer.Option("--keep-identity", help="Also keep file names and Patient IDs in the store.")
    ] = False,
    auth_file: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="File with one user:password per line, readable only by you; every request is checked.",
        ),
    ] = None,
    without_password: Annotated[
        bool, typer.Option("--without-password", help="Serve on a --host beyond this machine without a login.")
    ] = False,
    allow_name: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST",
            help="Host name by which the page may be reached without a login. Repeatable.",
            show_default="this machine's names; any with --auth-file",
        ),
    ] = None,
    max_files: Annotated[int, typer.Option(min=1, help="Maximum radiographs per upload.")] = 32,
    max_file_mib: Annotated[int, typer.Option(min=1, help="Maximum size of one file, unpacked.")] = 128,
    max_upload_mib: Annotated[int, typer.Option(min=1, help="Maximum size of one upload, unpacked.")] = 512,
    max_megapixels: Annotated[int, typer.Option(min=1, help="Maximum pixels of one radiograph.")] = 60,
    decoders: Annotated[int, typer.Option(min=1, help="Processes that decode uploads.")] = 1,
    device: DeviceOption = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.", show_default="all cores")] = None,
    short_edge: ModelShortEdgeOption = None,
    trust_checkpoint: TrustOption = False,
) -> None:
    """Serve the page until interrupted. For research only; not a medical device.

    Thresholds, classes and windows act without running the network again. Programs call /predict with gradio_client.
    """
    _check(host, auth_file=auth_file, without_password=without_password, store=store, keep_identity=keep_identity)
    with quiet_imports():
        try:
            import gradio  # noqa: F401

            from cxr_mmdet.web.site import build_site, private_uploads
            from cxr_mmdet.web.site import serve as run_site
            from cxr_mmdet.web.store import Store
        except ModuleNotFoundError as error:
            raise UsageError(f"the page needs {error.name}: pip install 'cxr-mmdet[serve]'") from None
    from cxr_mmdet.inference.predictor import Predictor
    from cxr_mmdet.web.auth import read_users
    from cxr_mmdet.web.examples import draw_examples
    from cxr_mmdet.web.room import ReadingRoom
    from cxr_mmdet.web.uploads import UploadLimits

    users = read_users(auth_file) if auth_file else None
    kept = Store.open(store) if store else None
    with quiet_imports():
        predictor = Predictor.load(
            model, device=device, threads=threads, trust_checkpoint=trust_checkpoint, short_edge=short_edge
        )
    limits = UploadLimits(max_files, max_file_mib << 20, max_upload_mib << 20, max_megapixels * 1_000_000)
    room = ReadingRoom(
        predictor, device=device, limits=limits, store=kept, keep_identity=keep_identity, decoders=decoders
    )
    try:
        room.warm_up()
        with private_uploads():
            site = build_site(room, draw_examples(room.class_names), users, hosts=_names(host, users, allow_name))
            stderr.print(f"{room.predictor.model_id} on {device}; Ctrl+C ends it", highlight=False)
            stdout.print(f"http://{'localhost' if host in LOCAL_HOSTS else host}:{port}/", highlight=False)
            run_site(site, host=host, port=port)
    finally:
        room.close()


def _names(host: str, users: Mapping[str, str] | None, allowed: list[str] | None) -> frozenset[str] | None:
    """Return the names by which a page without passwords may be called; None with passwords, which other sites lack."""
    if users:
        return None
    names = {"localhost", host, socket.gethostname(), socket.getfqdn(), *(allowed or [])}
    return frozenset(name.rstrip(".").lower() for name in names)


def _check(
    host: str, *, auth_file: Path | None, without_password: bool, store: str | None, keep_identity: bool
) -> None:
    if host not in LOCAL_HOSTS and auth_file is None and not without_password:
        raise UsageError(
            f"--host {host}: other machines reach the page there; pass --auth-file, or --without-password to allow it."
        )
    if keep_identity and store is None:
        raise UsageError("--keep-identity needs a store to keep names in; pass --store as well.")
