"""An exported model: a folder of weights in a safe format, and ``model.json`` with all that prediction must know."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_mmdet.errors import CheckpointError, ConfigError, counted
from cxr_mmdet.files import write_json
from cxr_mmdet.inference.backends.graphs import graph_names
from cxr_mmdet.inference.preprocessing import Preprocessing
from cxr_mmdet.inference.spec import DetectorSpec, require_flag, require_whole

if TYPE_CHECKING:
    from collections.abc import Mapping

MODEL_FILE = "model.json"
WEIGHTS, ARCHITECTURE = "weights.safetensors", "architecture.json"
"""The files of a bundle of the format ``torch``."""

SCHEMA_VERSION = 2


@dataclass(frozen=True)
class Bundle:
    """Content of ``model.json``.

    Attributes:
        path: the folder.
        format: ``onnx``, ``openvino`` or ``torch``.
        int8: whether its convolutions were quantised.
        name: config, checkpoint, format and precision, which several bundles may share; see :attr:`model_id`.
        class_names: in the order of the outputs.
        preprocessing: how to feed the network.
        spec: how to read it.
        box_depth: 3x3 convolutions of the box branch where that is a graph of its own; else 0.
        files: the SHA-256 of each weight file by its name.
        training: what is known of the training.
        parity: how far it is from torch, once that was checked.
        versions: of the packages that made it.
    """

    path: Path
    format: str
    int8: bool
    name: str
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    spec: DetectorSpec
    box_depth: int
    files: Mapping[str, str]
    training: Mapping[str, Any]
    parity: Mapping[str, Any] | None
    versions: Mapping[str, str]

    @property
    def model_id(self) -> str:
        """Name of the model and of the weights that run: one checkpoint, calibrated on other images, is another."""
        return self.name + _digest_of(self.files)

    @classmethod
    def open(cls, path: Path) -> Bundle:
        """Return the bundle in a folder after checking that its weight files are the ones it was written with.

        Raises:
            CheckpointError: ``model.json`` is damaged, of another version or holds a value out of range; a
                weight file is not listed, missing or was changed.
        """
        document = _read(path / MODEL_FILE)
        try:
            version = document["schema_version"]
            if version != SCHEMA_VERSION:
                raise CheckpointError(
                    f"{path / MODEL_FILE}: has version {version}, this program knows {SCHEMA_VERSION}; export the "
                    "model again with the installed version."
                )
            files = dict(document["files"])
            bundle = cls(
                path=path,
                format=str(document["format"]),
                int8=document["int8"],
                # Version 0.5.1 and earlier wrote the name alone.
                name=document["model_id"].removesuffix(_digest_of(files)),
                class_names=tuple(document["labels"]),
                preprocessing=Preprocessing.from_json(document["preprocessing"]),
                spec=DetectorSpec.from_json(document["detector"]),
                box_depth=document["box_depth"],
                files=files,
                training=dict(document["training"]),
                parity=document["parity"],
                versions=dict(document["versions"]),
            )
            bundle._check()
        except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
            raise CheckpointError(
                f"{path / MODEL_FILE}: is not the description of an exported model ({type(error).__name__}: {error}); "
                "export the model again."
            ) from None
        bundle._check_files()
        return bundle

    def save(self) -> None:
        """Write ``model.json``."""
        document = {
            "schema_version": SCHEMA_VERSION,
            "format": self.format,
            "int8": self.int8,
            "model_id": self.model_id,
            "labels": list(self.class_names),
            "preprocessing": self.preprocessing.to_json(),
            "detector": self.spec.to_json(),
            "box_depth": self.box_depth,
            "files": dict(self.files),
            "training": dict(self.training),
            "parity": self.parity,
            "versions": dict(self.versions),
        }
        write_json(self.path / MODEL_FILE, document, indent=1)

    def _check(self) -> None:
        """Check what the parts do not check themselves.

        Raises:
            ValueError: a value that no bundle has.
        """
        if self.format not in ("onnx", "openvino", "torch"):
            raise ValueError(f"format {self.format!r} is unknown")
        require_flag("int8", self.int8)
        require_whole("box_depth", self.box_depth, 0, 16)
        for name in (self.name, *self.class_names):
            if not isinstance(name, str) or not name.strip() or not name.isprintable():
                raise ValueError(f"model_id and labels must be names, got {name!r}")
        if not self.class_names or len(set(self.class_names)) < len(self.class_names):
            raise ValueError("labels must be at least one, each different")
        if self.spec.class_count not in (None, len(self.class_names)):
            raise ValueError(
                f"labels has {counted(len(self.class_names), 'name')}, channels has {self.spec.class_count} classes"
            )
        missing = sorted(set(self._needed()) - set(self.files))
        if missing:
            raise ValueError(f"files does not list {', '.join(missing)}")
        if not isinstance(self.parity, (dict, type(None))):
            raise ValueError("parity must be an object or null")

    def _needed(self) -> list[str]:
        """Return the names of the files that are read."""
        if self.format == "torch":
            return [WEIGHTS, ARCHITECTURE]
        suffixes = {"onnx": [".onnx"], "openvino": [".xml", ".bin"]}[self.format]
        return [name + suffix for name in graph_names(self.spec, self.box_depth) for suffix in suffixes]

    def _check_files(self) -> None:
        for name, digest in self.files.items():
            file = self.path / name
            if Path(name).name != name or file.is_symlink() or not file.is_file():
                raise CheckpointError(f"{file}: is missing from the bundle; copy or export it again.")
            if sha256_of(file) != digest:
                raise CheckpointError(
                    f"{file}: is not the file this bundle was written with (its SHA-256 differs from {MODEL_FILE}); "
                    "copy or export it again."
                )


def _digest_of(files: Mapping[str, str]) -> str:
    """Return the suffix that tells a bundle's weight files from those of any other."""
    return "-" + hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:12]


def sha256_of(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _read(path: Path) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise ValueError(f"it holds {constant}")

    try:
        document = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}).") from None
    except ValueError as error:
        raise CheckpointError(f"{path}: is not JSON ({error}); copy or export the bundle again.") from None
    if not isinstance(document, dict):
        raise CheckpointError(f"{path}: is not the description of an exported model; export it again.")
    return document
