"""A checkpoint → a bundle that was seen to agree with it."""

from __future__ import annotations

import copy
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_mmdet import __version__
from cxr_mmdet.engine.config import annotated_parts
from cxr_mmdet.errors import CheckpointError, CxrError, UsageError
from cxr_mmdet.files import locked_folder
from cxr_mmdet.inference.backends.graphs import GraphBackend
from cxr_mmdet.inference.backends.torch import TorchBackend
from cxr_mmdet.inference.bundle import MODEL_FILE, Bundle, sha256_of
from cxr_mmdet.inference.checkpoint import load_detector
from cxr_mmdet.inference.export import parity as check_images
from cxr_mmdet.inference.export.describe import describe_detector, describe_preprocessing
from cxr_mmdet.inference.export.model_card import CARD_FILE, write_model_card
from cxr_mmdet.inference.export.parity import EXACT, Parity, compare_findings, quantised_limits
from cxr_mmdet.inference.export.queries import SameStarts
from cxr_mmdet.inference.model import DEFAULT_SHORT_EDGE, LoadedModel, name_model
from cxr_mmdet.inference.predictor import Predictor, as_radiograph
from cxr_mmdet.inference.spec import DetectorSpec, Queries
from cxr_mmdet.structures.enums import ExportFormat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from cxr_mmdet.inference.checkpoint import TrainedDetector
    from cxr_mmdet.inference.export.parity import CheckSet, ParityLimits
    from cxr_mmdet.structures.radiograph_files import RadiographFile

    Progress = Callable[[int, int], None]

MAX_JUDGED = 400
"""Validation images that judge eight bits where no others are asked for by ``check``."""

_NEEDS = {
    ExportFormat.ONNX: ("onnx", "onnxruntime"),
    ExportFormat.OPENVINO: ("onnx", "openvino"),
    ExportFormat.TORCH: ("safetensors",),
}

_PACKAGES = ("torch", "onnx", "onnxruntime", "openvino", "nncf", "safetensors")


@dataclass(frozen=True)
class ExportOptions:
    """Options of an export and of its check.

    Attributes:
        format: of the bundle.
        int8: quantise convolutions and linear layers to eight bits; OpenVINO only.
        calibration: radiographs that show which values occur; for ``int8``, by default the training images.
        check: radiographs to compare on besides phantoms: a folder, or a prepared folder's COCO file for mAP; for
            ``int8``, by default the validation images.
        data_root: prepared folder of the training; None: where the checkpoint says it was.
        max_loss: mAP@[.5:.95], 0…1, that ``int8`` may cost on ``check``.
        winograd: use the kernels of :mod:`cxr_mmdet.inference.cpu_kernels` for convolutions; never with ``int8``.
        short_edge: of the prepared images the checkpoint was trained on.
        trust_checkpoint: load a checkpoint that would run code.
        force: replace an earlier bundle.
        compare: hold the bundle against torch; without, it says nothing about its agreement.
    """

    format: ExportFormat
    int8: bool = False
    calibration: tuple[RadiographFile, ...] = ()
    check: Path | None = None
    data_root: Path | None = None
    max_loss: float = 0.005
    winograd: bool = True
    short_edge: int = DEFAULT_SHORT_EDGE
    trust_checkpoint: bool = False
    force: bool = False
    compare: bool = True


def export_model(checkpoint: str, out: Path, options: ExportOptions, *, progress: Progress | None = None) -> Bundle:
    """Write a bundle and return it; ``out`` appears only once the bundle has passed its comparison with torch.

    Raises:
        UsageError: ``out`` exists, or options that do not go together.
        CheckpointError: the checkpoint cannot be loaded or exported, or the bundle differs from torch by too much.
        CxrError: ``out`` cannot be written, as on a full disk; then nothing is.
    """
    _check_options(out, options)
    detector = load_detector(checkpoint, trust=options.trust_checkpoint)
    spec = describe_detector(detector.model, checkpoint)
    model = LoadedModel(
        backend=TorchBackend(detector.model),
        spec=spec,
        preprocessing=describe_preprocessing(detector.config, checkpoint, short_edge=options.short_edge),
        class_names=detector.class_names,
        model_id=name_model(detector, options.short_edge),
    )
    reference = Predictor(model)
    checked = _check_set(detector, options)
    calibration = _calibration_images(detector, options) if options.int8 else []
    with _folder_beside(out) as folder:
        files, box_depth = _write_weights(detector, spec, folder, options)
        bundle = Bundle(
            path=folder,
            format=options.format.value,
            int8=options.int8,
            name=f"{model.model_id}-{options.format.value}{'-int8' * options.int8}",
            class_names=detector.class_names,
            preprocessing=model.preprocessing,
            spec=spec,
            box_depth=box_depth,
            files={path.name: sha256_of(path) for path in sorted(files)},
            training=detector.summary,
            parity=None,
            versions=_versions(),
        )
        bundle.save()
        parity: dict[str, Any] = {}
        if options.int8:
            from cxr_mmdet.inference.export.int8 import quantise

            parity["quantisation"] = vars(quantise(bundle, calibration, checked, max_loss=options.max_loss))
            bundle = replace(bundle, files={path.name: sha256_of(path) for path in sorted(files)})
            bundle.save()
        if options.compare:
            limits = quantised_limits(options.max_loss) if options.int8 else EXACT
            results = _compare(reference, Predictor.load(folder), checked, options, progress)
            _require(checkpoint, results, limits)
            parity |= {"limits": vars(limits), "sets": [result.to_json() for result in results]}
            bundle = replace(bundle, parity=parity)
            bundle.save()
        write_model_card(bundle, folder / CARD_FILE)
        _move(folder, out)
    return replace(bundle, path=out)


def _check_options(out: Path, options: ExportOptions) -> None:
    if out.exists() and not options.force:
        raise UsageError(f"{out} exists; pass --force to replace it, or choose another place with --out.")
    if out.exists() and not (out / MODEL_FILE).is_file() and any(out.iterdir()):
        raise UsageError(f"{out}: holds no exported model, so --force does not replace it; choose another --out.")
    if options.int8 and options.format is not ExportFormat.OPENVINO:
        raise UsageError(f"--int8: {options.format.value} bundles stay in single precision; use --format openvino.")
    for name in _NEEDS[options.format]:
        _require_package(name, options.format.value)
    if options.int8:
        _require_package("nncf", "int8")


def _require_package(name: str, extra: str) -> None:
    try:
        version(name)
    except PackageNotFoundError:
        raise UsageError(f"this needs the package {name}; install it by pip install cxr-mmdet[{extra}].") from None


def _write_weights(
    detector: TrainedDetector, spec: DetectorSpec, folder: Path, options: ExportOptions
) -> tuple[Sequence[Path], int]:
    """Write the weights; return the files and the depth of the box branch where that is a graph of its own."""
    if options.format is ExportFormat.TORCH:
        from cxr_mmdet.inference.backends.torch import save_torch_bundle

        return save_torch_bundle(detector, folder), 0
    from cxr_mmdet.inference.export.formats import export_onnx

    # Tracing and fusing change a model in place.
    winograd = options.winograd and not options.int8
    graphs = export_onnx(copy.deepcopy(detector.model), spec, folder, winograd=winograd)
    if options.format is ExportFormat.ONNX:
        return graphs.paths, graphs.box_depth
    from cxr_mmdet.inference.export.formats import export_openvino

    files = export_openvino(graphs.paths)
    for graph in graphs.paths:
        graph.unlink()
    return files, graphs.box_depth


def _calibration_images(detector: TrainedDetector, options: ExportOptions) -> Sequence[RadiographFile]:
    if options.calibration:
        return options.calibration
    file = _annotation_file(
        detector, "train_dataloader", options, "--calibration DIR, radiographs like those it will see"
    )
    return check_images.user_set(file, detector.class_names).items


def _check_set(detector: TrainedDetector, options: ExportOptions) -> CheckSet | None:
    """Return the radiographs to compare on besides phantoms; those of eight bits have ground truth.

    Raises:
        UsageError: eight bits, and no image has a box.
    """
    if options.check is None and not (options.int8 and options.compare):
        return None
    file, count = options.check, None
    if file is None:
        file = _annotation_file(detector, "val_dataloader", options, "--check FILE, its annotations/val_<labels>.json")
        count = MAX_JUDGED
    found = check_images.user_set(file, detector.class_names)
    if options.int8 and options.compare and not (found.truth and found.truth["annotations"]):
        raise UsageError(
            f"{file}: holds no box, and eight bits are judged by mAP; pass --check with the annotation file of a "
            "prepared folder."
        )
    return found if count is None else found.some(count)


def _annotation_file(detector: TrainedDetector, part: str, options: ExportOptions, otherwise: str) -> Path:
    """Return the annotation file that a part of the training's config names.

    Raises:
        UsageError: it is not there.
    """
    data = next(iter(annotated_parts(detector.config.get(part))), {})
    root = options.data_root or data.get("data_root")
    if root and data.get("ann_file") and (file := Path(root) / data["ann_file"]).is_file():
        return file
    raise UsageError(
        f"--int8: the prepared folder of the training ({root or 'which the checkpoint does not name'}) has no "
        f"{data.get('ann_file') or 'annotation file'}; pass --data-root with its present place, or {otherwise}."
    )


def _compare(
    reference: Predictor,
    exported: Predictor,
    checked: CheckSet | None,
    options: ExportOptions,
    progress: Progress | None,
) -> list[Parity]:
    report = progress or (lambda done, total: None)
    with tempfile.TemporaryDirectory() as scratch:
        sets = [check_images.phantom_set(reference.class_names, Path(scratch) / "phantoms")]
        if options.int8:  # whose mAP is judged on real ones; that of six images is chance
            sets = [replace(entry, truth=None) for entry in sets]
        if checked is not None:
            sets.append(checked)
        total = sum(len(entry.items) for entry in sets)
        return [_compare_on(entry, reference, exported, options, lambda: report(1, total)) for entry in sets]


def _compare_on(
    images: CheckSet, reference: Predictor, exported: Predictor, options: ExportOptions, done: Callable[[], None]
) -> Parity:
    spec, graph = reference.model.spec, exported.model.backend
    order: SameStarts | None = None
    is_dino = isinstance(spec, DetectorSpec) and isinstance(spec.maps, Queries)
    if is_dino and isinstance(graph, GraphBackend) and not options.int8:
        assert isinstance(reference.model.backend, TorchBackend), "it is what is exported"
        order = SameStarts(reference.model.backend, graph)
        reference = Predictor(replace(reference.model, backend=order))
    expected, got = [], []
    for item in images.items:
        radiograph = as_radiograph(item.read(), name=item.source)
        expected.append(reference.predict(radiograph))
        got.append(exported.predict(radiograph))
        done()
    parity = compare_findings(
        images.name,
        expected,
        got,
        score_threshold=spec.score_threshold,
        truth=images.truth,
        gate=reference.has_gate,
        loss=options.int8,
    )
    return parity if order is None else replace(parity, largest_order_difference=order.order_difference)


def _require(checkpoint: str, results: Sequence[Parity], limits: ParityLimits) -> None:
    for result in results:
        problems = result.problems(limits)
        if problems:
            remedy = "; pass a larger --max-loss, or export without --int8" if limits.score is None else ""
            raise CheckpointError(
                f"{checkpoint}: the exported model differs from torch on {result.images} {result.name}: "
                f"{'; '.join(problems)}. Nothing was written{remedy}."
            )


@contextmanager
def _folder_beside(out: Path) -> Iterator[Path]:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with locked_folder(f".{out.name}.export-", out.parent) as folder:
            yield folder
    except OSError as error:
        raise CxrError(
            f"{out}: cannot be written ({error.strerror or error}); make room or choose another --out. Nothing was "
            "written."
        ) from error


def _move(folder: Path, out: Path) -> None:
    folder.chmod(0o755)
    if not out.exists():
        folder.rename(out)
        return
    # Not hidden: a kill between the next two lines leaves it, and nothing but the user may remove it.
    earlier = folder.with_name(f"{folder.name.removeprefix('.')}-earlier")
    out.rename(earlier)
    try:
        folder.rename(out)
    except OSError:
        earlier.rename(out)
        raise
    shutil.rmtree(earlier)


def _versions() -> dict[str, Any]:
    found = {"cxr_mmdet": __version__}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
