"""Loading of models: checkpoints and exported bundles, whatever runs them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cxr_mmdet.errors import CheckpointError, UsageError
from cxr_mmdet.inference.backends.base import Streams
from cxr_mmdet.inference.bundle import MODEL_FILE, Bundle
from cxr_mmdet.structures.enums import ExportFormat

if TYPE_CHECKING:
    from cxr_mmdet.inference.backends.base import Backend, WholeBackend
    from cxr_mmdet.inference.checkpoint import TrainedDetector
    from cxr_mmdet.inference.preprocessing import Preprocessing
    from cxr_mmdet.inference.spec import Spec

DEFAULT_SHORT_EDGE = 1024
"""Short edge of prepared images by default in tools/prepare_data.py."""


@dataclass(frozen=True)
class LoadedModel:
    """A network with everything that prediction needs.

    Attributes:
        backend: runs the network, or the whole detector where ``spec`` is a WholeDetector.
        spec: description of its outputs.
        preprocessing: steps from a radiograph to its input.
        class_names: classes in the order of its outputs.
        model_id: name of the model and its weights.
        streams: radiographs that may be in the network at once; other threads wait for a slot.
    """

    backend: Backend | WholeBackend
    spec: Spec
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    model_id: str
    streams: int = 1


def name_model(detector: TrainedDetector, short_edge: int) -> str:
    """Return a name of config and weights and, where it is not the default, of the size of prepared images."""
    return detector.model_id + f"@{short_edge}" * (short_edge != DEFAULT_SHORT_EDGE)


def load_model(
    name: str | Path,
    *,
    device: str = "cpu",
    threads: int | None = None,
    trust_checkpoint: bool = False,
    short_edge: int | None = None,
    streams: int = 1,
) -> LoadedModel:
    """Return the model in a bundle that tools/export.py wrote, or in a checkpoint of tools/train.py.

    Args:
        name: folder of a bundle, a checkpoint, or folder of a run, which stands for its best checkpoint.
        device: ``cpu``, or a GPU such as ``cuda`` for torch.
        threads: processor threads of the network; None leaves the number to the runtime.
        trust_checkpoint: load a checkpoint that runs code.
        short_edge: short edge of the prepared images that a checkpoint was trained on; a bundle holds it.
        streams: radiographs that may be in the network at once, where several threads predict; they share its threads.
            A detector that only mmdet can decode takes one at a time.

    Raises:
        CheckpointError: the model does not exist, is damaged, was changed or is of an unknown kind.
        UsageError: its runtime is not installed, or an option does not apply to it.
    """
    path = Path(name)
    if not path.exists():
        raise CheckpointError(f"{path}: no such model; give a checkpoint, a run's folder or an exported bundle.")
    if (path / MODEL_FILE).is_file():
        if short_edge is not None:
            raise UsageError(
                f"{path}: a bundle states the size of its images; omit --short-edge (short_edge in Python)."
            )
        return _load_bundle(Bundle.open(path), device=device, streams=Streams(streams, threads))
    return _load_checkpoint(path, device, Streams(streams, threads), trust_checkpoint, short_edge)


def _load_bundle(bundle: Bundle, *, device: str, streams: Streams) -> LoadedModel:
    kind = ExportFormat(bundle.format)
    if kind is not ExportFormat.TORCH and device != "cpu":
        raise UsageError(f"{bundle.path}: {kind.value} bundles run on the CPU here; omit --device (device in Python).")
    backend: Backend
    if kind is ExportFormat.ONNX:
        from cxr_mmdet.inference.backends.onnx import OnnxBackend

        backend = OnnxBackend(bundle, streams=streams)
    elif kind is ExportFormat.OPENVINO:
        from cxr_mmdet.inference.backends.openvino import OpenVinoBackend

        backend = OpenVinoBackend(bundle, streams=streams)
    else:
        from cxr_mmdet.inference.backends.torch import TorchBackend, load_torch_bundle

        backend = TorchBackend(load_torch_bundle(bundle), device=device, streams=streams)
    return LoadedModel(
        backend, bundle.spec, bundle.preprocessing, bundle.class_names, bundle.model_id, streams=streams.count
    )


def _load_checkpoint(path: Path, device: str, streams: Streams, trust: bool, short_edge: int | None) -> LoadedModel:
    from cxr_mmdet.inference.checkpoint import load_detector
    from cxr_mmdet.inference.export.describe import describe_preprocessing

    detector = load_detector(str(path), trust=trust)
    edge = DEFAULT_SHORT_EDGE if short_edge is None else short_edge
    backend, spec = _in_torch(detector, str(path), device, streams)
    return LoadedModel(
        backend=backend,
        spec=spec,
        preprocessing=describe_preprocessing(detector.config, str(path), short_edge=edge),
        class_names=detector.class_names,
        model_id=name_model(detector, edge),
        streams=streams.count,
    )


def _in_torch(
    detector: TrainedDetector, source: str, device: str, streams: Streams
) -> tuple[Backend | WholeBackend, Spec]:
    """Return the backend and description of a detector; mmdet decodes where this package cannot."""
    from cxr_mmdet.inference.export.describe import OtherArchitectureError, describe_detector

    try:
        spec = describe_detector(detector.model, source)
    except OtherArchitectureError:
        from cxr_mmdet.inference.backends.mmdet import MmdetBackend, describe_whole

        whole = describe_whole(detector.model, source)
        return MmdetBackend(detector.model, device=device, threads=streams.threads), whole
    from cxr_mmdet.inference.backends.torch import TorchBackend

    return TorchBackend(detector.model, device=device, streams=streams), spec
