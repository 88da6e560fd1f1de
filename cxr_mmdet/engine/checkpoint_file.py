"""Reading checkpoint files: the one way into the project, mmengine's and mmdet's own loading included.

A pickle can run any code while it is loaded, so files are read by torch's unpickler for weights. The few other types
that training writes, numpy's numbers and mmengine's loss histories, are read as inert records and rebuilt from their
data afterwards. mmengine allows the same types by name, ``getattr`` among them, with which a file reaches ``exec``; and
what it cannot read so, it reads without protection.
"""

from __future__ import annotations

import contextlib
import json
import pickle
import re
import sys
import tarfile
import zipfile
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

import numpy as np
import torch
from mmengine.dist import barrier, get_dist_info
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import (
    CheckpointLoader,
    _process_mmcls_checkpoint,
    get_deprecated_model_names,
    get_external_models,
    get_mmcls_models,
    get_torchvision_models,
)
from safetensors import SafetensorError, safe_open

from cxr_mmdet.errors import CheckpointError, first_line
from cxr_mmdet.models.finite import require_finite_weights

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TRUST = "--trust-checkpoint (trust_checkpoint=True in Python)"
SCALES = ".scales"
"""Suffix of the tensor that holds a number per output channel by which a kernel of int8 is multiplied."""
_AGAIN = "copy or download it again"

_trusted: ContextVar[bool] = ContextVar("trusted", default=False)


def read_checkpoint_file(path: Path, *, trust: bool = False, map_location: Any = "cpu") -> dict[str, Any]:
    """Return the content of a checkpoint file.

    Args:
        path: a file of ``torch.save``.
        trust: unpickle whatever the file holds, which runs the code it asks for.
        map_location: as ``torch.load`` takes it.

    Raises:
        CheckpointError: the file is missing, damaged or something else, would run code while loading, or holds weights
            that are not finite.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; give the path of a checkpoint.")
    kind = describe_other_file(path)
    if kind is not None:
        raise CheckpointError(f"{path}: {kind}.")
    try:
        with torch.serialization.safe_globals(_RECORDS):
            content = torch.load(path, map_location=map_location, weights_only=not trust)
        content = _Rebuilding().value(content)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)|(?:unrecognized function|but got) (.+)", str(error))
        if found is None:
            raise CheckpointError(f"{path}: is damaged ({first_line(error)}); {_AGAIN}.") from None
        what = found[1] or found[2].strip()
        raise CheckpointError(
            f"{path}: loading it would run code ({what}), so it is refused; if you know who made it, pass {TRUST}."
        ) from None
    except Exception as error:  # damage can fail anywhere in torch's reader, and trusted code anyhow
        raise CheckpointError(f"{path}: is not a readable checkpoint ({first_line(error)}); {_AGAIN}.") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds no model weights (no 'state_dict'); give a checkpoint of training.")
    meta = content.get("meta")
    if not trust and isinstance(meta, dict):
        meta.pop("config", None)  # mmengine runs it as Python when it resumes
    for part in [content.get("state_dict", content), content.get("ema_state_dict")]:
        if isinstance(part, dict):
            require_finite_weights(part, str(path))
    return content


def is_safetensors(path: Path) -> bool:
    """Return whether a file begins as safetensors files do."""
    with path.open("rb") as file:
        return file.read(10)[8:] == b'{"'


def read_safetensors(path: Path) -> dict[str, Any]:
    """Return weights as a checkpoint has them, in float32, with the classes that the file names.

    Raises:
        CheckpointError: the file is damaged, holds weights that are not finite, or its classes are no list of names.
    """
    try:
        with safe_open(path, "pt") as file:
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dictionary)
            named = (file.metadata() or {}).get("classes")
        weights = {
            name: _dequantised(value, stored.get(name + SCALES))
            for name, value in stored.items()
            if not name.endswith(SCALES)
        }
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: is not a readable safetensors file ({first_line(error)}); {_AGAIN}.") from None
    require_finite_weights(weights, str(path))
    return {"state_dict": weights, "meta": {"dataset_meta": {"classes": _class_names(path, named)}}}


def _class_names(path: Path, named: str | None) -> list[str] | None:
    if named is None:
        return None
    with contextlib.suppress(ValueError):
        names = json.loads(named)
        if isinstance(names, list) and all(isinstance(name, str) for name in names):
            return names
    raise CheckpointError(
        f"{path}: its metadata give the classes as {named[:40]!r}, expected a JSON list of names; write the file again "
        "with such a list or without classes."
    )


def _dequantised(value: torch.Tensor, scales: torch.Tensor | None) -> torch.Tensor:
    if scales is not None:
        return value.float() * scales.float().view(-1, *[1] * (value.ndim - 1))
    return value.float() if value.is_floating_point() else value


@contextlib.contextmanager
def trusting(trust: bool) -> Iterator[None]:
    """Let what mmengine and mmdet load inside the block be trusted, or not."""
    token = _trusted.set(trust)
    try:
        yield
    finally:
        _trusted.reset(token)


def describe_other_file(path: Path) -> str | None:
    """Return what a file is and what to do, should it be no file of ``torch.save``; None if it looks like one."""
    with path.open("rb") as file:
        head = file.read(512)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        return f"is empty; {_AGAIN}"
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer in place of the file; run git lfs pull in its repository"
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return "is a web page, not a checkpoint; download the file itself, perhaps after logging in"
    if head.startswith(b"PK"):
        return _describe_zip(path)
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"7z\xbc\xaf", b"Rar!", b"\x28\xb5\x2f\xfd")):
        return "is a compressed archive; unpack it and give the checkpoint inside"
    if head.startswith(b"\x89HDF"):
        return "is an HDF5 file, such as Keras writes; give a checkpoint of torch"
    if is_safetensors(path):
        return "is a safetensors file, which holds no config; give the bundle's folder, or a checkpoint of training"
    if head.startswith(b"\x80"):
        return None  # a pickle: torch's format before 1.6
    if tarfile.is_tarfile(path):
        return "is a tar archive; unpack it and give the checkpoint inside"
    try:
        words = head.decode("utf-8")
    except UnicodeDecodeError as error:
        words = head[: error.start].decode("utf-8") if error.start > len(head) - 4 else ""
    if words and all(letter.isprintable() or letter.isspace() for letter in words):
        return f"is a text file that begins with {words.strip()[:40]!r}; give a checkpoint of training"
    return f"is not a PyTorch file (it begins with the bytes {head[:8].hex(' ')}); give a checkpoint of training"


def _describe_zip(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, EOFError):
        return f"is cut short or damaged (the ZIP directory at its end is missing); {_AGAIN}"
    folders = {name.rpartition("/")[0] for name in names if name.endswith("data.pkl")}
    if not folders:
        return "is a ZIP archive of other files; unpack it and give the checkpoint inside"
    if any(name.endswith("constants.pkl") for name in names):
        return "is a TorchScript program, which is code; give a checkpoint of training"
    return None


class _Record:
    """A call that a pickle asks for, recorded instead of executed: its arguments and the state of its result."""

    def __new__(cls, *args: Any, **_: Any) -> _Record:
        record = super().__new__(cls)
        record.args, record.state = args, None
        return record

    def __init__(self, *_: Any, **__: Any) -> None:
        self.args: tuple[Any, ...]
        self.state: Any

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _History(_Record):
    """mmengine's HistoryBuffer."""


class _Dtype(_Record):
    """numpy.dtype(code, …) with its byte order in the second place of its state."""


class _Array(_Record):
    """numpy's array: (version, shape, dtype, whether columns come first, bytes) as its state."""


class _Scalar(_Record):
    """numpy's scalar(dtype, bytes)."""


_RECORDS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (_History, "mmengine.logging.history_buffer.HistoryBuffer"),
    (_Record, "builtins.getattr"),  # how HistoryBuffer pickles its methods; nothing is looked up
    (_Dtype, "numpy.dtype"),
    (_Record, "numpy.ndarray"),
    (_Record, "builtins.bytes"),  # how b"" is pickled
]
for _core in ("core", "_core"):
    _RECORDS += [(_Array, f"numpy.{_core}.multiarray._reconstruct"), (_Scalar, f"numpy.{_core}.multiarray.scalar")]


class _Rebuilding:
    """Puts plain arrays, numbers and histories in the place of records; what is no such thing stays a record."""

    def __init__(self) -> None:
        self._known: dict[int, Any] = {}

    def value(self, value: Any) -> Any:
        """Return ``value`` rebuilt; dictionaries and lists are changed in place."""
        if not isinstance(value, (dict, list, tuple, _Record)):
            return value
        if id(value) in self._known:
            return self._known[id(value)]
        self._known[id(value)] = value
        if isinstance(value, dict):
            for key, part in list(value.items()):
                value[key] = self.value(part)
        elif isinstance(value, list):
            value[:] = [self.value(part) for part in value]
        else:
            rebuilt = self._record(value) if isinstance(value, _Record) else self._tuple(value)
            self._known[id(value)] = rebuilt
            return rebuilt
        return value

    def _tuple(self, value: tuple[Any, ...]) -> tuple[Any, ...]:
        parts = [self.value(part) for part in value]
        # torch.Size and the like hold no records, and stay what they are.
        return value if all(new is old for new, old in zip(parts, value, strict=True)) else tuple(parts)

    def _record(self, record: _Record) -> Any:
        if isinstance(record, _Scalar):
            dtype, data = record.args
            return np.frombuffer(data, _dtype(dtype))[0]
        if isinstance(record, _Array) and record.state is not None:
            _, shape, dtype, columns_first, data = record.state
            empty = isinstance(data, _Record)
            values = np.empty(0, _dtype(dtype)) if empty else np.frombuffer(data, _dtype(dtype)).copy()
            return values.reshape(shape, order="F" if columns_first else "C")
        if isinstance(record, _History) and isinstance(record.state, dict):
            state = {name: self.value(part) for name, part in record.state.items()}
            return HistoryBuffer(state["_log_history"], state["_count_history"], state["max_length"])
        return record


def _dtype(record: _Dtype) -> np.dtype[Any]:
    dtype = np.dtype(record.args[0])
    if dtype.kind not in "biuf":
        raise ValueError(f"it holds an array of {dtype}, not of numbers")
    order = record.state[1] if record.state else "="
    return dtype.newbyteorder(order if order in "<>" else "=")


def load_from_local(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Return a checkpoint of this machine, for mmengine."""
    path = Path(filename).expanduser()
    if not path.is_file():
        raise CheckpointError(
            f"{filename}: no such file; correct --load-from, or start from random weights by --load-from none."
        )
    if is_safetensors(path):
        return read_safetensors(path)
    return read_checkpoint_file(path, trust=_trusted.get(), map_location=map_location)


def load_from_http(url: str, map_location: Any = None) -> dict[str, Any]:
    """Return a checkpoint of the web, for mmengine; it is downloaded once, to where torch.hub keeps its files."""
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    rank, _ = get_dist_info()
    if rank == 0 and not file.exists():
        _download(url, file)
    barrier()
    if not file.exists():
        _download(url, file)  # another machine's first process has another disk
    return read_checkpoint_file(file, trust=_trusted.get(), map_location=map_location)


def _download(url: str, file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(file), progress=sys.stderr.isatty())
    except OSError as error:  # urllib's errors are of this kind
        raise CheckpointError(
            f"{url}: cannot be downloaded ({error}); download it where there is a network and pass --load-from FILE, "
            "or start from random weights by --load-from none."
        ) from error
    kind = describe_other_file(file)
    if kind is not None:
        file.unlink()
        raise CheckpointError(f"{url}: what was downloaded {kind}.")


def load_from_zoo(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Return a checkpoint of a model zoo that mmengine knows the addresses of."""
    scheme, _, name = filename.partition("://")
    if scheme in ("modelzoo", "torchvision"):
        addresses = get_torchvision_models()
    elif scheme == "mmcls":
        addresses = get_mmcls_models()
    else:
        addresses = get_external_models()
        name = get_deprecated_model_names().get(name, name)
    if name not in addresses:
        raise CheckpointError(f"{filename}: {scheme} has no such model; correct the name, or give a file or a URL.")
    checkpoint = load_from_http(addresses[name], map_location)
    return _process_mmcls_checkpoint(checkpoint) if scheme == "mmcls" else checkpoint


def load_from_store(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Refuse a checkpoint of a cloud's store."""
    raise CheckpointError(f"{filename}: is in a store that is not read from here; download it and give the file.")


def _take_over_loading() -> None:
    """Register our loaders with mmengine, through which its Runner and mmdet's backbones load all they load."""
    CheckpointLoader.register_scheme("", load_from_local, force=True)
    CheckpointLoader.register_scheme(["http://", "https://"], load_from_http, force=True)
    names = ["modelzoo://", "torchvision://", "open-mmlab://", "openmmlab://", "mmcls://"]
    CheckpointLoader.register_scheme(names, load_from_zoo, force=True)
    stores = ["pavi://", r"(\S+\:)?s3://", r"(\S+\:)?petrel://"]
    CheckpointLoader.register_scheme(stores, load_from_store, force=True)


_take_over_loading()
