"""``dicom_node MODEL``: receive radiographs and send structured reports to an archive."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cxr_mmdet.cli.app import (
    ClassThresholdOption,
    CxrGroup,
    CxrTyper,
    DicomwebCa,
    DicomwebCredentials,
    ModelShortEdgeOption,
    TrustOption,
    quiet_imports,
    stdout,
)
from cxr_mmdet.structures.enums import DEFAULT_SCORE_THRESHOLD, DEFAULT_STREAMS

if TYPE_CHECKING:
    from rich.table import Table

    from cxr_mmdet.pacs.config import NodeConfig
    from cxr_mmdet.pacs.node import DicomNode, NodeOptions
    from cxr_mmdet.pacs.operation import StatusServer

DEFAULT_STATE = Path("work_dirs/dicom_node")
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


Config = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Configuration file (TOML); options take precedence.")
]
State = Annotated[Path, typer.Option(metavar="DIR", file_okay=False, help="Folder of the queue, one per node.")]


@app.command(no_args_is_help=True)
def run(
    model: Annotated[
        str | None, typer.Argument(help="A checkpoint, a run's folder or an exported bundle.", show_default=False)
    ] = None,
    config: Config = None,
    destination: Annotated[
        list[str] | None,
        typer.Option(
            metavar="AE@HOST:PORT",
            help="Where reports and Secondary Captures are sent, or the URL of a DICOMweb service. Repeatable.",
        ),
    ] = None,
    ae: Annotated[str | None, typer.Option(metavar="TITLE", help="AE title of the node.", show_default="CXR")] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port to listen on; 0 picks a free one.", show_default="11112"),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Address to listen on; 0.0.0.0 for all addresses of the machine.",
            show_default="127.0.0.1",
        ),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", file_okay=False, help="Folder of the queue, one per node.", show_default=str(DEFAULT_STATE)
        ),
    ] = None,
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
        float | None,
        typer.Option(
            min=0, max=1, help="Lowest score of findings that are reported.", show_default=f"{DEFAULT_SCORE_THRESHOLD}"
        ),
    ] = None,
    class_threshold: ClassThresholdOption = None,
    capture: Annotated[
        bool | None,
        typer.Option(
            "--capture/--no-capture", help="Also send the overlay as a Secondary Capture.", show_default="capture"
        ),
    ] = None,
    overlay_size: Annotated[
        int | None, typer.Option(min=64, help="Maximum longer side of the overlay in pixels.", show_default="2048")
    ] = None,
    capture_quality: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=100,
            help="JPEG quality of the overlay; 0: uncompressed, about ten times as large.",
            show_default="95",
        ),
    ] = None,
    presentation: Annotated[
        bool | None,
        typer.Option(
            "--presentation", help="Also send a presentation state, which shows the findings over the original."
        ),
    ] = None,
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
    poll: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="DICOMweb service whose new radiographs are fetched. Repeatable."),
    ] = None,
    credentials: DicomwebCredentials = None,
    dicomweb_ca: DicomwebCa = None,
    device: Annotated[
        str | None,
        typer.Option(help="cpu, or a GPU such as cuda:0 (checkpoints and torch bundles).", show_default="cpu"),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.", show_default="all cores")] = None,
    streams: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Radiographs predicted at once, sharing the threads; 1 gives the lowest latency.",
            show_default=f"{DEFAULT_STREAMS}",
        ),
    ] = None,
    short_edge: ModelShortEdgeOption = None,
    trust_checkpoint: TrustOption = False,
    http: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", help="Address of /healthz, /readyz and /metrics (Prometheus).", show_default="off"
        ),
    ] = None,
    log_format: Annotated[
        str | None, typer.Option(metavar="text|json", help="Format of the log, on stderr.", show_default="text")
    ] = None,
    audit: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", dir_okay=False, help="File to which each radiograph's way is appended, as JSON lines."
        ),
    ] = None,
) -> None:
    """Run the node until it is stopped (Ctrl-C, SIGTERM).

    The node answers C-ECHO and accepts C-STORE of computed and digital radiographs. Accepted radiographs are on the
    disk and survive the process; the same command continues with them. A destination that is down is retried. Options
    take precedence over the configuration file.
    """
    import os

    from cxr_mmdet.pacs.config import destination_table, read_config
    from cxr_mmdet.structures.scores import parse_class_thresholds

    web = {"credentials": _absolute(credentials), "ca": _absolute(dicomweb_ca)}
    tables = [destination_table(text, tls=destination_tls, **web) for text in dict.fromkeys(destination or [])]
    thresholds = parse_class_thresholds(class_threshold) if class_threshold else None
    given = {
        "model": ("MODEL", _absolute(model)),
        "destination": ("--destination", tables or None),
        "listen.ae_title": ("--ae", ae),
        "listen.port": ("--port", port),
        "listen.host": ("--host", host),
        "listen.allow_ae": ("--allow-ae", allow_ae or None),
        "listen.allow_host": ("--allow-host", allow_host or None),
        "state": ("--state", _absolute(state)),
        "report.score_threshold": ("--score-threshold", score_threshold),
        "report.class_thresholds": ("--class-threshold", thresholds),
        "report.capture": ("--capture", capture),
        "report.overlay_size": ("--overlay-size", overlay_size),
        "report.capture_quality": ("--capture-quality", capture_quality),
        "report.presentation": ("--presentation", presentation),
        "tls.cert": ("--tls-cert", _absolute(tls_cert)),
        "tls.key": ("--tls-key", _absolute(tls_key)),
        "tls.ca": ("--tls-ca", _absolute(tls_ca)),
        "poll": ("--poll", [{"url": url, **web} for url in poll] if poll else None),
        "device": ("--device", device),
        "threads": ("--threads", threads),
        "streams": ("--streams", streams),
        "short_edge": ("--short-edge", short_edge),
        "trust_checkpoint": ("--trust-checkpoint", trust_checkpoint or None),
        "http": ("--http", http),
        "log_format": ("--log-format", log_format),
        "audit": ("--audit", _absolute(audit)),
    }
    os.umask(0o077)  # what the node writes holds patients' data
    _run(read_config(config, {key: each for key, each in given.items() if each[1] is not None}))


@app.command()
def check(
    config: Annotated[Path, typer.Argument(metavar="FILE", help="Configuration file (TOML).")],
    connect: Annotated[
        bool, typer.Option("--connect", help="Also ask each destination and polled archive whether it is there.")
    ] = False,
) -> None:
    """Check a configuration file: exit code 0 if a node can start with it, 1 if something is missing, 2 if it is wrong.

    Nothing is sent. With --connect each archive is asked by C-ECHO or by a search that finds nothing. The classes of a
    checkpoint, unlike those of a bundle, are not looked up.
    """
    import os

    from cxr_mmdet.errors import CxrError
    from cxr_mmdet.inference.bundle import MODEL_FILE, Bundle
    from cxr_mmdet.inference.predictor import Thresholds
    from cxr_mmdet.pacs.config import read_config
    from cxr_mmdet.pacs.sender import NotDeliveredError, StowDestination

    settings = read_config(config)
    settings.node_options()
    destinations = settings.destinations()
    polled = [StowDestination(poller.archive.url, poller.archive) for poller in settings.pollers()]
    if not Path(settings.model).exists():
        raise CxrError(f"{config}: model: {settings.model} does not exist; name a checkpoint, run or bundle.")
    if (Path(settings.model) / MODEL_FILE).is_file():
        bundle = Bundle.open(Path(settings.model))
        Thresholds(per_class=settings.report.class_thresholds).check(bundle.class_names)
    for key, folder in (("state", settings.state), ("audit", settings.audit and settings.audit.parent)):
        present = next((each for each in (folder, *folder.parents) if each.exists()), None) if folder else None
        if present is not None and not (present.is_dir() and os.access(present, os.W_OK)):
            raise CxrError(f"{config}: {key}: {present} cannot be written; name another folder or change its rights.")
    failed = 0
    for target in [*destinations, *polled] if connect else ():
        try:
            target.check()
        except NotDeliveredError as error:
            failed += 1
            stdout.print(f"{target.name}: {error}", highlight=False, markup=False)
        else:
            stdout.print(f"{target.name}: answers", highlight=False, markup=False)
    if failed:
        raise typer.Exit(1)
    stdout.print(f"{config}: a node can start with it", highlight=False, markup=False)


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


def _run(settings: NodeConfig) -> None:
    from cxr_mmdet.inference.predictor import Predictor
    from cxr_mmdet.pacs.node import DicomNode
    from cxr_mmdet.pacs.operation import AuditLog, StatusServer, set_up_logging
    from cxr_mmdet.pacs.reporting import quiet_libraries

    set_up_logging(settings.log_format.value)
    quiet_libraries()
    options, destinations, pollers = settings.node_options(), settings.destinations(), settings.pollers()
    _warn_if_open(options)
    audit = AuditLog(settings.audit)
    server = StatusServer(settings.http) if settings.http else None
    with quiet_imports():
        predictor = Predictor.load(
            settings.model,
            device=settings.device,
            threads=settings.threads,
            trust_checkpoint=settings.trust_checkpoint,
            short_edge=settings.short_edge,
            streams=settings.streams,
        )
    node = DicomNode(settings.state, predictor, destinations, options, settings.report_options(), pollers, audit)
    _run_until_signalled(node, options, server)


def _absolute(path: str | Path | None) -> str | None:
    if path is None or str(path).startswith("env:"):
        return path if path is None else str(path)
    return str(Path(path).absolute())


def _warn_if_open(options: NodeOptions) -> None:
    import ipaddress
    import logging

    try:
        is_local = ipaddress.ip_address(options.host).is_loopback
    except ValueError:
        is_local = options.host == "localhost"
    if not is_local and not (options.networks or options.calling_ae_titles):
        logging.getLogger("cxr_mmdet.node").warning(
            "anyone who reaches this address may send; restrict senders by allow_host and allow_ae"
        )


def _run_until_signalled(node: DicomNode, options: NodeOptions, server: StatusServer | None) -> None:
    import gc
    import logging
    import signal
    import threading

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    # pynetdicom collects garbage every half minute, which would go through all modules and the model each time.
    gc.freeze()
    node.start()
    if server is not None:
        node.report_on(server)
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
    from rich.table import Column, Table
    from rich.text import Text

    # A UID or an address that is cut off names nothing.
    table = Table(*(Column(title, overflow="fold") for title in ("state", "SOP Instance UID", "destination", "reason")))
    for row in rows[:SHOWN_JOBS]:
        table.add_row(*map(Text, row))
    if len(rows) > SHOWN_JOBS:
        table.caption = f"and {len(rows) - SHOWN_JOBS} more; --json shows all"
    return table
