"""A detector as safetensors and a description of its architecture: for GPUs, and wherever mmdet is installed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mmengine.config import Config, ConfigDict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from cxr_mmdet.errors import CheckpointError, first_line
from cxr_mmdet.files import write_json
from cxr_mmdet.inference.bundle import ARCHITECTURE, WEIGHTS
from cxr_mmdet.inference.checkpoint import build_detector, register_types, require_labels
from cxr_mmdet.models.finite import require_finite_weights

if TYPE_CHECKING:
    from pathlib import Path

    from mmdet.models.detectors.base import BaseDetector

    from cxr_mmdet.inference.bundle import Bundle
    from cxr_mmdet.inference.checkpoint import TrainedDetector


def save_torch_bundle(detector: TrainedDetector, folder: Path) -> list[Path]:
    """Write weights and architecture; return the files.

    Raises:
        OSError: they cannot be written.
    """
    weights = {name: tensor.contiguous() for name, tensor in detector.model.state_dict().items()}
    try:
        save_file(weights, str(folder / WEIGHTS))
    except SafetensorError as error:  # also what the system says, such as that the disk is full
        raise OSError(str(error)) from error
    config = detector.config
    kept = {"model": _plain(config.model), "custom_imports": _plain(config.get("custom_imports"))}
    write_json(folder / ARCHITECTURE, kept, indent=1)
    return [folder / WEIGHTS, folder / ARCHITECTURE]


def load_torch_bundle(bundle: Bundle) -> BaseDetector:
    """Return the detector of a bundle of the format ``torch``.

    Raises:
        CheckpointError: it is damaged, or asks for what is no part of mmdet.
    """
    path = bundle.path / ARCHITECTURE
    try:
        config = Config(ConfigDict(json.loads(path.read_text(encoding="utf-8"))))
        weights = load_file(str(bundle.path / WEIGHTS))
    except Exception as error:  # safetensors has an error of its own
        reason = first_line(error)
        raise CheckpointError(f"{bundle.path}: cannot be loaded ({reason}); export it again.") from None
    register_types(path, config, trust=False)
    require_finite_weights(weights, str(bundle.path / WEIGHTS))
    model = build_detector(path, config, weights)
    require_labels(path, model, bundle.class_names)
    return model


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return value
