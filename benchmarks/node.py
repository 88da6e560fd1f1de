"""Throughput of a DICOM node from C-STORE to the archived report, compared with bare prediction."""

from __future__ import annotations

import datetime
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydicom.uid import generate_uid

from benchmarks.dicom_peer import NODE_TITLE, PEER_TITLE, DicomPeer, run_peer
from benchmarks.harness import Alternative, Comparison, compare
from cxr_mmdet.dicom.radiograph import read_radiograph
from cxr_mmdet.dicom.report import to_bytes
from cxr_mmdet.inference.predictor import Thresholds
from cxr_mmdet.pacs.job_store import JobStore
from cxr_mmdet.pacs.node import DicomNode, NodeOptions
from cxr_mmdet.pacs.reporting import Prediction, ReportOptions, describe_findings, predict_content
from cxr_mmdet.pacs.sender import DimseDestination
from cxr_mmdet.phantom.cases import plan_case
from cxr_mmdet.phantom.dicom_file import Encoding, write_dicom
from cxr_mmdet.phantom.render import render_phantom
from cxr_mmdet.structures.labels import LABELS_14

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.harness import Progress
    from cxr_mmdet.inference.predictor import Predictor
    from cxr_mmdet.pacs.sender import Destination

BARE, NODE, NODE_DOWN = "bare prediction", "DICOM node", "DICOM node, a second destination down"
DOWN = DimseDestination("DOWN", "127.0.0.1", 9)
"""Nothing listens at the port of the discard service."""
RECEIVE, PREDICT, DESCRIBE, KEEP, SEND = (
    "receive and queue",
    "read and predict",
    "make report and capture",
    "keep them in the queue",
    "send them",
)
_CREATED = datetime.datetime(2026, 1, 1)


@dataclass(frozen=True)
class _Work:
    """One radiograph and what each step makes of it, so that every step can be timed alone."""

    content: bytes
    prediction: Prediction
    results: dict[str, bytes]
    files: list[Path]


def benchmark_node(
    predictor: Predictor,
    bare: Predictor,
    *,
    pictures: int,
    size: int,
    rounds: int,
    options: ReportOptions,
    progress: Progress | None = None,
) -> list[Comparison]:
    """Return the node against bare prediction of the same radiographs, and the node's steps one at a time.

    A second node has another destination besides, which cannot be reached.

    The node runs in this process, as it does in service. Who sends, and the archive that accepts structured reports
    and Secondary Captures, are one other process of this machine and share its processors.

    Args:
        predictor: the node's model.
        bare: the same model, which predicts one radiograph after another.
        pictures: phantoms a round.
        size: their short edge in pixels.
        rounds: timed rounds of each.
        options: what the node reports; writing a report takes longer the more there is to say.
        progress: called with the rounds just done and all of one comparison.

    Raises:
        CxrError: the node did not take a radiograph, or its results stayed away.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = _write_phantoms(folder / "phantoms", pictures, size)
        works = [_prepare(predictor, path, options, folder / "results") for path in paths]
        with run_peer(paths) as peer:
            both = [
                Alternative(BARE, lambda turn: [bare.predict(path) for path in paths]),
            ]
            with (
                _run_node(folder / "node", predictor, peer, options) as node,
                _run_node(folder / "node-down", predictor, peer, options, DOWN) as other,
            ):
                both.append(Alternative(NODE, lambda turn: peer.send(node.port, wait=True)))
                both.append(Alternative(NODE_DOWN, lambda turn: peer.send(other.port, wait=True)))
                title = f"C-STORE to archived report, {_describe(predictor, works, options)}"
                throughput = _compare(title, both, pictures, rounds, progress)
            steps = _compare_steps(folder, bare, peer, works, options, rounds, progress)
    return [throughput, steps]


def _compare_steps(
    folder: Path,
    predictor: Predictor,
    peer: DicomPeer,
    works: Sequence[_Work],
    options: ReportOptions,
    rounds: int,
    progress: Progress | None,
) -> Comparison:
    """Return what each step takes while nothing else runs; in the node sending and receiving overlap predicting."""
    destination = _destination(peer)

    def predict(turn: int) -> None:
        for work in works:
            predictor.predict_radiographs([read_radiograph(work.content)], Thresholds())

    def describe(turn: int) -> None:
        for work in works:
            _encode(work.prediction, options)

    def keep(turn: int) -> None:
        for work in works:
            store.accept(generate_uid(), b"", PEER_TITLE)
            job = store.next_queued()
            assert job is not None
            store.begin(job)
            store.predicted(job, work.results, 0)
            delivery = store.next_delivery(PEER_TITLE)
            assert delivery is not None
            store.delivered(delivery)

    def deliver(turn: int) -> None:
        for work in works:
            destination.send(work.files)

    store = JobStore(folder / "store", [PEER_TITLE])
    try:
        with _run_node(folder / "inbox", predictor, peer, options) as inbox:
            inbox.pause()
            steps = {
                PREDICT: predict,
                RECEIVE: lambda turn: peer.send(inbox.port, wait=False),
                DESCRIBE: describe,
                KEEP: keep,
                SEND: deliver,
            }
            alternatives = [Alternative(step, run) for step, run in steps.items()]
            title = f"The node's steps, one at a time, {_describe(predictor, works, options)}"
            return _compare(title, alternatives, len(works), rounds, progress)
    finally:
        store.close()


def _compare(
    title: str, alternatives: Sequence[Alternative], pictures: int, rounds: int, progress: Progress | None
) -> Comparison:
    return compare(
        title,
        alternatives,
        item="picture",
        items_per_round=pictures,
        rounds=rounds,
        clock="wall_s",
        progress=progress,
    )


@contextmanager
def _run_node(
    state: Path, predictor: Predictor, peer: DicomPeer, options: ReportOptions, *others: Destination
) -> Iterator[DicomNode]:
    node = DicomNode(state, predictor, [_destination(peer), *others], NodeOptions(NODE_TITLE, port=0), options)
    node.start()
    try:
        yield node
    finally:
        node.stop()


def _destination(peer: DicomPeer) -> DimseDestination:
    return DimseDestination(PEER_TITLE, "127.0.0.1", peer.port, calling_ae=NODE_TITLE)


def _describe(predictor: Predictor, works: Sequence[_Work], options: ReportOptions) -> str:
    height, width = works[0].prediction.radiograph.pixels.shape
    found = [options.limited(work.prediction.found) for work in works]
    reported = float(np.mean([len(each.filter(options.score_threshold)) for each in found]))
    return f"{predictor.model_id}, {width} x {height} px, {reported:.3g} findings each"


def _prepare(predictor: Predictor, path: Path, options: ReportOptions, folder: Path) -> _Work:
    content = path.read_bytes()
    prediction = predict_content(predictor, content, path.name, options)
    results = _encode(prediction, options)
    folder.mkdir(exist_ok=True)
    files = [folder / f"{path.stem}-{name}.dcm" for name in sorted(results)]
    for file, name in zip(files, sorted(results), strict=True):
        file.write_bytes(results[name])
    return _Work(content, prediction, results, files)


def _encode(prediction: Prediction, options: ReportOptions) -> dict[str, bytes]:
    reports = describe_findings(prediction, options, _CREATED)
    assert reports.capture is not None
    return {"1-report": to_bytes(reports.report), "2-capture": to_bytes(reports.capture)}


def _write_phantoms(folder: Path, count: int, size: int) -> list[Path]:
    """Write different phantoms, uncompressed as most modalities send."""
    folder.mkdir()
    paths = []
    for index in range(count):
        phantom = render_phantom(plan_case(11, index, abnormal_share=1.0, labels=LABELS_14), size=size)
        paths.append(folder / f"{index:03}.dcm")
        write_dicom(paths[-1], phantom, Encoding(bits_stored=14, used=(0.05, 0.9)))
    return paths
