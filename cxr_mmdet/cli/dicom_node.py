"""``dicom_node MODEL``: receive radiographs and send structured reports to an archive."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cxr_mmdet.cli.app import CxrGroup, CxrTyper, quiet_imports, stderr, stdout
from cxr_mmdet.structures.enums import DEFAULT_SCORE_THRESHOLD

if TYPE_CHECKING:
    from rich.table import Table

    from cxr_mmdet.pacs.node import NodeOptions

DEFAULT_STATE = Path("work_dirs/dicom_node")
DEFAULT_STREAMS = 2
SHOWN_JOBS = 20
STOP_LIMIT_S = 9
"""Maximum time that a stop waits for work in progress; the queue on the disk survives any end."""


class NodeGroup(CxrGroup):
    """Command group whose default is ``run``: a first argument that is not a command is MODEL."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse ``args``."""
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = CxrTyper(cls=NodeGroup, no_args_is_help=True)


@app.callback()
def dicom_node() -> None:
    """Predict radiographs that a PACS sends and send the findings back. The default command is [bold]run[/]."""


State = Annotated[Path, typer.Option(metavar="DIR", file_okay=False, help="Folder of the queue, one per node.")]


@app.command(no_args_is_help=True)
def run(
    model: Annotated[str, typer.Argument(help="A checkpoint, a run's folder or an exported bundle.")],
    destination: Annotated[
        list[str],
        typer.Option(
            metavar="AE@HOST:PORT", help="Where structured reports and Secondary Captures are sent. Repeatable."
        ),
    ],
    ae: Annotated[str, typer.Option(metavar="TITLE", help="AE title of the node.")] = "CXR",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 picks a free one.")] = 11112,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Address to listen on; 0.0.0.0 for all addresses of the machine.")
    ] = "127.0.0.1",
    state: State = DEFAULT_STATE,
    allow_ae: Annotated[
        list[str] | None,
        typer.Option(metavar="TITLE", help="AE title that may send. Repeatable.", show_default="anyone"),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDRESS",
            help="Address, network or host name that may connect. Repeatable.",
            show_default="anywhere",
        ),
    ] = None,
    score_threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Lowest score of findings that are reported.")
    ] = DEFAULT_SCORE_THRESHOLD,
    capture: Annotated[
        bool, typer.Option("--capture/--no-capture", help="Also send the overlay as a Secondary Capture.")
    ] = True,
    overlay_size: Annotated[int, typer.Option(min=64, help="Maximum longer side of the overlay in pixels.")] = 2048,
    capture_quality: Annotated[
        int,
        typer.Option(min=0, max=100, help="JPEG quality of the overlay; 0: uncompressed, about ten times as large."),
    ] = 95,
    presentation: Annotated[
        bool,
        typer.Option(
            "--presentation", help="Also send a presentation state, which shows the findings over the original."
        ),
    ] = False,
    tls_cert: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Certificate (PEM); the node then listens with TLS."),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Private key of the certificate.")
    ] = None,
    tls_ca: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="CA that must have signed the certificates of peers."),
    ] = None,
    destination_tls: Annotated[bool, typer.Option("--destination-tls", help="Send with TLS.")] = False,
    device: Annotated[str, typer.Option(help="cpu, or a GPU such as cuda:0 (checkpoints and torch bundles).")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.", show_default="all cores")] = None,
    streams: Annotated[
        int,
        typer.Option(
            min=1,
            help="Radiographs predicted at once, sharing the threads; 1 gives the lowest latency.",
        ),
    ] = DEFAULT_STREAMS,
    short_edge: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Short edge of the prepared images that a checkpoint was trained on; bundles record it.",
            show_default="1024",
        ),
    ] = None,
    trust_checkpoint: Annotated[
        bool,
        typer.Option(
            "--trust-checkpoint", help="Load a checkpoint that runs code. Use it only for files that you made."
        ),
    ] = False,
) -> None:
    """Run the node until it is stopped (Ctrl-C, SIGTERM).

    The node answers C-ECHO and accepts C-STORE of computed and digital radiographs. Accepted radiographs are on the
    disk and survive the process; the same command continues with them. A destination that is down is retried.
    """
    import logging
    import os

    from cxr_mmdet.inference.predictor import Predictor
    from cxr_mmdet.pacs.node import DicomNode, NodeOptions, parse_networks
    from cxr_mmdet.pacs.reporting import ReportOptions, quiet_libraries
    from cxr_mmdet.pacs.sender import DimseDestination, check_ae_title
    from cxr_mmdet.pacs.tls import Certificates

    os.umask(0o077)  # what the node writes holds patients' data
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    quiet_libraries()
    certificates = Certificates(tls_cert, tls_key, tls_ca)
    options = NodeOptions(
        ae_title=check_ae_title(ae, "--ae"),
        host=host,
        port=port,
        calling_ae_titles=tuple(check_ae_title(title, "--allow-ae") for title in allow_ae or []),
        networks=parse_networks(allow_host or []),
        tls=certificates.for_listening(),
    )
    tls = certificates.for_sending() if destination_tls else None
    targets = [DimseDestination.parse(text, tls, options.ae_title) for text in dict.fromkeys(destination)]
    _warn_if_open(options)
    with quiet_imports():
        predictor = Predictor.load(
            model, device=device, threads=threads, trust_checkpoint=trust_checkpoint, short_edge=short_edge,
            streams=streams,
        )  # fmt: skip
    reported = ReportOptions(score_threshold, overlay_size, capture, capture_quality or None, presentation=presentation)
    node = DicomNode(state, predictor, targets, options, reported)
    _run_until_signalled(node, options)


@app.command()
def status(
    state: State = DEFAULT_STATE,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Show how many radiographs are waiting, done or failed, and why. The node may be running."""
    import json

    from cxr_mmdet.pacs import job_database, job_folder

    with job_database.open_queue(state) as queue:
        counts = job_database.count_states(queue)
        deliveries = job_database.count_deliveries(queue)
        quarantine = job_folder.list_quarantine(state)
        undelivered = job_database.list_undelivered(queue)
        concerned = {delivery.job.number for _, delivery in undelivered}
        problems = [
            (job.state.value, job.sop_instance_uid, "", job.reason)
            for step in (job_database.State.failed, job_database.State.queued, job_database.State.predicted)
            for job in job_database.list_jobs(queue, step)
            if job.reason and job.number not in concerned
        ]
    problems += [
        (state_name, delivery.job.sop_instance_uid, delivery.destination, delivery.reason)
        for state_name, delivery in undelivered
    ]
    if as_json:
        columns = ("state", "sop_instance_uid", "destination", "reason")
        document = {
            "counts": counts,
            "destinations": deliveries,
            "problems": [dict(zip(columns, row, strict=True)) for row in problems],
            "quarantine": quarantine,
        }
        stdout.print_json(json.dumps(document, sort_keys=True))
        return
    stdout.print("  ".join(f"{name} {count}" for name, count in counts.items()), highlight=False)
    for destination, by_progress in deliveries.items():
        line = "  ".join(f"{name} {count}" for name, count in by_progress.items())
        stdout.print(f"{destination}: {line}", highlight=False, markup=False)
    if problems:
        stdout.print(_problems(problems))
    if quarantine:
        names = ", ".join(quarantine[:SHOWN_JOBS]) + (", …" if len(quarantine) > SHOWN_JOBS else "")
        stdout.print(
            f"set aside in {state / job_folder.QUARANTINE}, which the node leaves alone: {names}",
            highlight=False,
            markup=False,
        )


@app.command()
def retry(state: State = DEFAULT_STATE) -> None:
    """Put failed radiographs back into the queue once the cause is fixed. The node may be running."""
    from cxr_mmdet.pacs import job_database

    with job_database.open_queue(state) as queue:
        count = job_database.retry_failed(state, queue)
    stdout.print(f"{count} queued again", highlight=False)


@app.command()
def forget(
    destination: Annotated[str, typer.Argument(metavar="DESTINATION", help="Name of the destination, as in status.")],
    state: State = DEFAULT_STATE,
) -> None:
    """Drop what waits for a destination that exists no more. The node may be running, without that destination."""
    from cxr_mmdet.pacs import job_database

    with job_database.open_queue(state) as queue:
        count = job_database.forget_destination(queue, destination)
    stdout.print(f"{count} dropped", highlight=False)


@app.command()
def repair(state: State = DEFAULT_STATE) -> None:
    """Rebuild a damaged or lost database from the files in the state folder. The node must be stopped.

    Nothing is deleted, and the damaged database is kept beside the new one. A radiograph whose delivery the new
    database does not record is predicted again when it is sent again, with the same UIDs.
    """
    from cxr_mmdet.pacs import job_recovery

    kept = job_recovery.repair(state)
    if kept is not None:
        stdout.print(f"the old database is kept as {kept}", highlight=False, markup=False)
    status(state, as_json=False)


@app.command()
def conformance() -> None:
    """Print the DICOM Conformance Statement (PS3.2) as Markdown."""
    from cxr_mmdet.pacs.conformance import conformance_statement
    from cxr_mmdet.pacs.reporting import quiet_libraries

    quiet_libraries()
    print(conformance_statement(), end="")  # noqa: T201 (rich would wrap its lines)


def _warn_if_open(options: NodeOptions) -> None:
    import ipaddress

    try:
        is_local = ipaddress.ip_address(options.host).is_loopback
    except ValueError:
        is_local = options.host == "localhost"
    if not is_local and not (options.networks or options.calling_ae_titles):
        stderr.print(
            "warning: anyone who reaches this address may send; restrict senders with --allow-host and --allow-ae.",
            style="yellow",
        )


def _run_until_signalled(node: Any, options: NodeOptions) -> None:
    import logging
    import signal
    import threading

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    node.start()
    logging.getLogger("cxr_mmdet.node").info("%s listens on %s:%d", options.ae_title, options.host, node.port)
    stop.wait()
    logging.getLogger("cxr_mmdet.node").info("stopping: work in progress is finished, the rest stays in the queue")
    # A daemon: it still runs, and ends the process, if the interpreter waits at its exit for a thread that hangs.
    limit = threading.Timer(STOP_LIMIT_S, _leave)
    limit.daemon = True
    limit.start()
    node.stop(STOP_LIMIT_S - 1)


def _leave() -> None:
    import logging
    import os

    logging.getLogger("cxr_mmdet.node").warning(
        "stopped after %d s with work in progress; the next start resumes it", STOP_LIMIT_S
    )
    logging.shutdown()
    os._exit(0)


def _problems(rows: list[tuple[str, str, str, str]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table("state", "SOP Instance UID", "destination", "reason")
    for row in rows[:SHOWN_JOBS]:
        table.add_row(*map(Text, row))
    if len(rows) > SHOWN_JOBS:
        table.caption = f"and {len(rows) - SHOWN_JOBS} more; --json shows all"
    return table
