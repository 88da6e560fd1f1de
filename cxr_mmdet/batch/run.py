"""Predicting many radiographs: several at once, one bad file at a time, resumable, shared among processes."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from cxr_mmdet.batch import journal
from cxr_mmdet.batch.outputs import RESULTS, CocoIds, remove_results, write_overlay, write_results
from cxr_mmdet.errors import CxrError, DicomError, UsageError
from cxr_mmdet.files import sole_use
from cxr_mmdet.inference.predictor import Thresholds, as_radiograph
from cxr_mmdet.parallel import map_in_threads
from cxr_mmdet.preparation.images import RENDERING_VERSION, shrink
from cxr_mmdet.structures.enums import DEFAULT_SCORE_THRESHOLD
from cxr_mmdet.structures.radiograph_files import OVERLAYS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from cxr_mmdet.dicom.radiograph import Radiograph
    from cxr_mmdet.inference.predictor import Augmentation
    from cxr_mmdet.structures.detections import Findings
    from cxr_mmdet.structures.radiograph_files import RadiographFile

    Progress = Callable[[int, int], None]


class Predicts(Protocol):
    """A predictor, or several that act as one; used by several threads at once."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Classes that it finds."""
        ...

    @property
    def model_id(self) -> str:
        """Name of the model and its weights."""
        ...

    @property
    def score_threshold(self) -> float:
        """Score threshold that applies unless another is asked for."""
        ...

    @property
    def workers(self) -> int:
        """Number of threads that keep its network busy."""
        ...

    @property
    def min_short_edge(self) -> int | None:
        """Pixels of the shorter side below which no radiograph may be decoded; None where all of it must be."""
        ...

    def check(self, thresholds: Thresholds) -> None:
        """Raise unless the thresholds make sense for it."""
        ...

    @property
    def has_gate(self) -> bool:
        """Whether its findings' ``p_abnormal`` is an abnormality gate's."""
        ...

    def predict_radiographs(
        self, radiographs: Sequence[Radiograph], thresholds: Thresholds, augmentation: Augmentation | None = None
    ) -> list[Findings]:
        """Return the findings of each radiograph."""
        ...


@dataclass(frozen=True)
class RunOptions:
    """Options of a run over many radiographs.

    Attributes:
        thresholds: see :class:`Thresholds`.
        augmentation: see :class:`Augmentation`.
        batch_size: radiographs per run of the network, where their inputs have one size.
        overlays: draw findings into PNG files.
        overlay_score: lowest score that is drawn; not below that of the findings.
        overlay_size: the longer side of the drawing in pixels.
        coco: an annotation file whose numbers and prepared-image pixels detections.json uses.
        force: replace results of another model or of other settings.
    """

    thresholds: Thresholds = field(default_factory=Thresholds)
    augmentation: Augmentation | None = None
    batch_size: int = 1
    overlays: bool = False
    overlay_score: float = DEFAULT_SCORE_THRESHOLD
    overlay_size: int = 1024
    coco: Path | None = None
    force: bool = False

    @property
    def overlay(self) -> list[float] | None:
        """Settings that a drawn overlay depends on; None where none is drawn."""
        return [self.overlay_score, self.overlay_size] if self.overlays else None

    def min_short_edge(self, predictor: Predicts) -> int | None:
        """Return the pixels of the shorter side that network and overlay need; None for all."""
        edge = predictor.min_short_edge
        if edge is None or not self.overlays:
            return edge
        return max(edge, self.overlay_size) if self.overlay_size else None

    def settings(self, predictor: Predicts) -> dict[str, Any]:
        """Return what the results depend on, as plain values."""
        augmentation = self.augmentation
        # Absent where every pixel is read, as in results of earlier versions; those reduced JPEG 2000 alone.
        reduced = {"reduced": True} if predictor.min_short_edge else {}
        return reduced | {
            "model_id": predictor.model_id,
            "score_threshold": self.thresholds.score,
            "nms_iou": self.thresholds.nms_iou,
            "class_thresholds": dict(self.thresholds.per_class or {}),
            "views": [[view.scale, view.flip] for view in augmentation.views] if augmentation else [],
            "fusion": [augmentation.method.value, augmentation.iou_threshold] if augmentation else [],
            "rendering_version": RENDERING_VERSION,
        }


@dataclass(frozen=True)
class RunSummary:
    """Result of a run; ``failures`` maps image ids to the reason, ``reused`` were there from an earlier run."""

    out_dir: Path
    images: int
    reused: int
    findings: int
    failures: Mapping[str, str]


@dataclass(frozen=True)
class Process:
    """Rank of this process among several, as torchrun counts them."""

    rank: int = 0
    count: int = 1

    @classmethod
    def from_environment(cls) -> Process:
        """Return torchrun's rank and world size; one process without it."""
        return cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))

    def wait_for_others(self) -> None:
        """Return once every process is here."""
        if self.count == 1:
            return
        from datetime import timedelta

        import torch.distributed

        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("gloo", timeout=timedelta(days=30))
        torch.distributed.barrier()


def predict_many(
    predictor: Predicts,
    items: Sequence[RadiographFile],
    out_dir: Path,
    options: RunOptions,
    *,
    process: Process | None = None,
    progress: Progress | None = None,
) -> RunSummary | None:
    """Predict all items, keep each result as soon as it is there, and write the result files at the end.

    Args:
        predictor: one or an ensemble.
        items: radiographs; with ``options.coco`` only those it names are predicted.
        out_dir: the folder of results; a second call with the same settings predicts what is missing or has changed.
        options: how.
        process: this one among several; each predicts its share, the first one writes.
        progress: called with the number of radiographs just dealt with and of all of this process.

    Returns:
        What came of it; None in other processes than the first.

    Raises:
        UsageError: the folder holds results of another model, of other settings or of another command, is in use, or
            thresholds make no sense.
        DatasetError: no input is an image of ``options.coco``, or two are one of its images.
        CxrError: results cannot be written.
    """
    process = process or Process()
    report = progress or (lambda done, total: None)
    settings = options.settings(predictor)
    predictor.check(options.thresholds)
    _check_overlay_score(predictor, options)
    coco = CocoIds.of_file(options.coco, predictor.class_names) if options.coco else None
    if coco is not None:
        items = coco.radiographs(items)
    with sole_use(out_dir, "choose another --out") if process.rank == 0 else nullcontext():
        if process.rank == 0:
            _refuse_others_results(out_dir, force=options.force)
            if options.force:
                remove_results(out_dir)  # a kill would leave them beside another model's progress
            journal.start(out_dir, settings, force=options.force)
        process.wait_for_others()
        return _predict_share(predictor, items, out_dir, coco, options, settings, process, report)


def _refuse_others_results(out_dir: Path, *, force: bool) -> None:
    """Refuse to write over files of another command, such as ``test``, which also writes detections.json."""
    if force or journal.is_in(out_dir):
        return
    for path in (out_dir / name for name in RESULTS):
        if path.exists():
            raise UsageError(
                f"{path}: exists, and no prediction wrote it; choose another --out, or pass --force to replace it."
            )


def _predict_share(
    predictor: Predicts,
    items: Sequence[RadiographFile],
    out_dir: Path,
    coco: CocoIds | None,
    options: RunOptions,
    settings: Mapping[str, Any],
    process: Process,
    report: Progress,
) -> RunSummary | None:
    """Predict what is missing of this process's share; the first process writes the files of all."""
    log = journal.Journal(out_dir, process.rank)
    share = items[process.rank :: process.count]
    done = set(_finished(log, share, out_dir, options))
    report(len(done), len(share))
    todo = [item for item in share if item.image_id not in done]
    reused = len(items) - len(todo) if process.count == 1 else len(_finished(log, items, out_dir, options))
    process.wait_for_others()  # nobody writes before all have counted
    size = options.batch_size
    batches = (todo[start : start + size] for start in range(0, len(todo), size))
    predict = partial(_predict_batch, predictor, out_dir=out_dir, options=options, log=log)
    try:
        for count in map_in_threads(predict, batches, threads=predictor.workers):
            report(count, len(share))
    finally:
        log.close()
    process.wait_for_others()
    if process.rank != 0:
        return None
    return _finish(predictor, items, out_dir, coco, log, settings, reused)


def _check_overlay_score(predictor: Predicts, options: RunOptions) -> None:
    score, own = options.overlay_score, predictor.score_threshold
    if options.overlays and options.thresholds.score is None and score < min(own, DEFAULT_SCORE_THRESHOLD):
        raise UsageError(
            f"--overlay-score {score:g} is below the model's own score threshold of {own:g}, so there is nothing more "
            f"to draw; add --score-threshold {score:g}."
        )


def _finish(
    predictor: Predicts,
    items: Sequence[RadiographFile],
    out_dir: Path,
    coco: CocoIds | None,
    log: journal.Journal,
    settings: Mapping[str, Any],
    reused: int,
) -> RunSummary:
    places = _places(log, items)
    reasons = log.failures()
    failures = {} if coco is None else coco.without_radiograph(items)
    failures |= {
        item.image_id: reasons.get(item.image_id, f"{item.source}: was not predicted")
        for item in items
        if item.image_id not in places
    }
    names = predictor.class_names
    coco = coco or CocoIds.by_order(items, names)
    write_results(
        out_dir,
        items,
        places,
        failures,
        class_names=names,
        coco=coco,
        settings=settings,
        has_gate=predictor.has_gate,
    )
    count = sum(len(journal.read_line(place)["findings"]["findings"]) for place in places.values())
    return RunSummary(out_dir, images=len(places), reused=reused, findings=count, failures=failures)


def _places(log: journal.Journal, items: Sequence[RadiographFile]) -> dict[str, tuple[Path, int]]:
    return log.places([item for item in items if item.path.exists()])


def _finished(log: journal.Journal, items: Sequence[RadiographFile], out_dir: Path, options: RunOptions) -> list[str]:
    places = _places(log, items)
    if not options.overlays:
        return list(places)
    return [
        image_id
        for image_id, place in places.items()
        if _overlay_path(out_dir, image_id).is_file() and journal.read_line(place).get("overlay") == options.overlay
    ]


def _overlay_path(out_dir: Path, image_id: str) -> Path:
    return out_dir / OVERLAYS / f"{image_id}.png"


def _predict_batch(
    predictor: Predicts, items: Sequence[RadiographFile], out_dir: Path, options: RunOptions, log: journal.Journal
) -> int:
    """Read, predict and draw some radiographs and keep the results; return how many there were."""
    good = []
    edge = options.min_short_edge(predictor)
    for item in items:
        try:
            state = item.stamp()
            good.append((item, as_radiograph(item.read(), name=item.source, min_short_edge=edge), state))
        except DicomError as error:
            log.add(item, {"failure": str(error)})
    found = _predict_each(predictor, [read for _, read, _ in good], options)
    for (item, radiograph, state), findings in zip(good, found, strict=True):
        if isinstance(findings, CxrError):
            log.add(item, {"failure": f"{item.source}: {findings}"})
            continue
        if options.overlays:
            pixels = shrink(radiograph.pixels, 0, radiograph.pixel_aspect)
            image = findings.draw(pixels, min_score=options.overlay_score, long_edge=options.overlay_size or None)
            write_overlay(_overlay_path(out_dir, item.image_id), image)
        log.add(item, {"findings": findings.to_json(), "state": state, "overlay": options.overlay})
    return len(items)


def _predict_each(
    predictor: Predicts, radiographs: Sequence[Radiograph], options: RunOptions
) -> Sequence[Findings | CxrError]:
    """Return what is found on each radiograph, or why nothing can be; one that fails does not fail its batch."""
    try:
        return predictor.predict_radiographs(radiographs, options.thresholds, options.augmentation)
    except UsageError:
        raise
    except CxrError as error:
        if len(radiographs) == 1:
            return [error]
        return [found for radiograph in radiographs for found in _predict_each(predictor, [radiograph], options)]
