"""Throughput of a folder's prediction and of a DICOM node, from C-STORE to the archived report, and of the network."""

from __future__ import annotations

import datetime
import gc
import itertools
import os
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydicom.uid import generate_uid

from benchmarks.dicom_peer import NODE_TITLE, PEER_TITLE, DicomPeer, run_peer
from benchmarks.harness import Alternative, Comparison, compare
from cxr_mmdet.batch.run import RunOptions, predict_many
from cxr_mmdet.dicom.radiograph import read_radiograph
from cxr_mmdet.dicom.report import to_bytes
from cxr_mmdet.inference.backends.base import detect
from cxr_mmdet.inference.predictor import Thresholds
from cxr_mmdet.pacs.job_store import JobStore
from cxr_mmdet.pacs.node import DicomNode, NodeOptions
from cxr_mmdet.pacs.reporting import Prediction, ReportOptions, describe_findings, predict_content
from cxr_mmdet.pacs.sender import DimseDestination
from cxr_mmdet.parallel import map_in_threads
from cxr_mmdet.phantom.cases import plan_case
from cxr_mmdet.phantom.dicom_file import Encoding, write_dicom
from cxr_mmdet.phantom.render import render_phantom
from cxr_mmdet.structures.labels import LABELS_14
from cxr_mmdet.structures.radiograph_files import find_radiographs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from benchmarks.harness import Progress
    from cxr_mmdet.inference.predictor import Predictor
    from cxr_mmdet.inference.preprocessing import ModelInput
    from cxr_mmdet.pacs.sender import Destination

BARE, NETWORK, FOLDER = "bare, one by one", "network alone", "folder"
NODE, NODE_DOWN = "node", "node, one down"
DIFFERENT = 6
"""Different radiographs at most; more are the same ones under other names and UIDs."""
FEW = 3
"""Radiographs of a warm-up, and of a round of each step."""
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
    images: int,
    size: int,
    rounds: int,
    options: ReportOptions,
    progress: Progress | None = None,
) -> list[Comparison]:
    """Return folder and node against bare prediction of the same radiographs, and the node's steps one at a time.

    Bare prediction reads and predicts one radiograph after another, each with all threads. The network alone gets
    inputs that are ready, as many at once as it has streams. A second node has another destination besides, which
    cannot be reached. A round begins and ends with an empty pipeline, which 24 radiographs or more hardly notice.

    The node runs in this process, as it does in service. Who sends, and the archive that accepts structured reports
    and Secondary Captures, are one other process of this machine and share its processors.

    Args:
        predictor: the node's model.
        bare: the same model, which predicts one radiograph after another.
        images: radiographs per round.
        size: their short edge in pixels.
        rounds: timed rounds of each.
        options: what the node reports; writing a report takes longer the more there is to say.
        progress: called with the rounds just done and all of one comparison.

    Raises:
        CxrError: the node did not take a radiograph, or its results stayed away.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = _write_phantoms(folder / "phantoms", images, size)
        works = [_prepare(predictor, path, options, folder / "results") for path in paths[:FEW]]
        turns = itertools.count()

        def predict_folder(count: int) -> None:
            predict_many(
                predictor,
                find_radiographs([str(path) for path in paths[:count]]),
                folder / f"out{next(turns)}",
                RunOptions(),
            )

        with (
            run_peer(paths) as peer,
            _run_node(folder / "node", predictor, peer, options) as node,
            _run_node(folder / "node-down", predictor, peer, options, DOWN) as other,
        ):
            ways: dict[str, Callable[[int], object]] = {
                BARE: lambda count: [bare.predict(path) for path in paths[:count]],
                NETWORK: lambda count: _run_network(predictor, works, count),
                FOLDER: predict_folder,
                NODE: lambda count: peer.send(node.port, count, wait=True),
                NODE_DOWN: lambda count: peer.send(other.port, count, wait=True),
            }
            for way in ways.values():
                way(min(FEW, images))
            both = [Alternative(name, partial(_ignore_turn, way, images)) for name, way in ways.items()]
            title = f"C-STORE to archived report, {_describe(predictor, works, options)}"
            throughput = _compare(title, both, images, rounds, progress, warm_up=0)
        with run_peer(paths[:FEW]) as peer:
            steps = _compare_steps(folder, bare, peer, works, options, rounds, progress)
    return [throughput, steps]


def _ignore_turn(way: Callable[[int], object], count: int, turn: int) -> None:
    way(count)


def _run_network(predictor: Predictor, works: Sequence[_Work], count: int) -> None:
    """Run the network on ``count`` inputs that are ready, as many at once as it has streams, and decode its outputs."""
    model = predictor.model
    limits = Thresholds().of_classes(model.class_names, model.spec.score_threshold)
    nms_iou = model.spec.resolve_nms_iou(None)
    radiographs = [work.prediction.radiograph for work in works]
    inputs = [model.preprocessing(each.pixels, each.pixel_aspect) for each in radiographs]

    def run(entry: ModelInput) -> object:
        return detect(model.backend, model.spec, entry.batch, [entry.size_hw], limits, nms_iou)

    for _ in map_in_threads(run, itertools.islice(itertools.cycle(inputs), count), threads=model.streams):
        pass


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
                RECEIVE: lambda turn: peer.send(inbox.port, len(works), wait=False),
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
    title: str,
    alternatives: Sequence[Alternative],
    images: int,
    rounds: int,
    progress: Progress | None,
    warm_up: int = 1,
) -> Comparison:
    return compare(
        title,
        alternatives,
        item="image",
        warm_up=warm_up,
        items_per_round=images,
        rounds=rounds,
        clock="wall_s",
        progress=progress,
    )


@contextmanager
def _run_node(
    state: Path, predictor: Predictor, peer: DicomPeer, options: ReportOptions, *others: Destination
) -> Iterator[DicomNode]:
    node = DicomNode(state, predictor, [_destination(peer), *others], NodeOptions(NODE_TITLE, port=0), options)
    gc.freeze()  # as the command does
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
    """Write phantoms, uncompressed as most modalities send."""
    folder.mkdir()
    paths = [folder / f"{index:03}.dcm" for index in range(count)]
    for index, path in enumerate(paths):
        if index >= DIFFERENT:
            os.link(paths[index % DIFFERENT], path)
            continue
        phantom = render_phantom(plan_case(11, index, abnormal_share=1.0, labels=LABELS_14), size=size)
        write_dicom(path, phantom, Encoding(bits_stored=14, used=(0.05, 0.9)))
    return paths
