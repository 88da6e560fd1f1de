"""Starting weights that were learned on phantoms: found by the backbone they belong to, and written with a card."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from cxr_mmdet.commands import PACKAGE
from cxr_mmdet.engine.checkpoint_file import SCALES, read_checkpoint_file
from cxr_mmdet.errors import CheckpointError, UsageError, first_line
from cxr_mmdet.files import atomic_path, cache_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mmengine.config import Config

PHANTOM = "phantom"
"""Name of these weights in ``load_from`` and ``--load-from``."""

_NOT_OF_WEIGHTS = ("out_indices", "frozen_stages", "norm_eval", "init_cfg", "with_cp", "norm_cfg", "style")


def own_starts() -> Path:
    """Return the folder of the starting weights that this user's machine made."""
    return cache_folder() / "weights"


def resolve_start(config: Config) -> None:
    """Put the file that ``load_from = "phantom"`` stands for into a config; any other value stays.

    Of the files for the config's backbone, one that was made for the recipe itself comes before another recipe's, and
    then one made on this machine before the package's.

    Raises:
        CheckpointError: no file belongs to the config's backbone, or one is damaged.
    """
    if config.get("load_from") != PHANTOM:
        return
    wanted = describe_backbone(config)
    recipe = Path(config.filename).stem if config.filename else "RECIPE"
    for path in sorted(_files(), key=lambda path: path.stem != recipe):
        if _metadata(path).get("backbone") == wanted:
            config.load_from = str(path)
            return
    raise CheckpointError(
        f"{PHANTOM}: this machine has no starting weights for the backbone of {recipe}; make them once by "
        f"tools/pretrain.py {recipe}, or start from random weights by --load-from none."
    )


def describe_backbone(config: Config) -> str:
    """Return what two configs have in common whose backbones have the same parameters."""
    backbone = {key: value for key, value in config.model.backbone.items() if key not in _NOT_OF_WEIGHTS}
    return json.dumps(backbone, sort_keys=True, default=str)


def write_start(checkpoint: Path, out: Path, config: Config, card: str) -> None:
    """Write the weights of a checkpoint as safetensors of 8 bits, and a model card beside it.

    Kernels are rounded to 255 levels per output channel; biases and norms stay exact.

    Args:
        checkpoint: of training.
        out: file to write.
        config: the checkpoint's.
        card: Markdown; ``{sha256}`` and ``{megabytes}`` in it are filled in.
    """
    content = read_checkpoint_file(checkpoint)
    metadata = {
        "classes": json.dumps(list(content["meta"]["dataset_meta"]["classes"])),
        "backbone": describe_backbone(config),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(out) as temporary:
        save_file(dict(_quantised(content["state_dict"])), temporary, metadata)
    data = out.read_bytes()
    card = card.replace("{sha256}", hashlib.sha256(data).hexdigest()).replace("{megabytes}", f"{len(data) / 1e6:.1f}")
    with atomic_path(out.with_suffix(".md")) as temporary:
        temporary.write_text(card, encoding="utf-8")


def _files() -> Iterator[Path]:
    with suppress(UsageError):
        yield from sorted(own_starts().glob("*.safetensors"))
    yield from sorted((PACKAGE / "weights").glob("*.safetensors"))


def _metadata(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: is not a readable safetensors file ({first_line(error)}); remove it and make it again by "
            "tools/pretrain.py."
        ) from None


def _quantised(weights: Mapping[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    for name, value in weights.items():
        if value.ndim < 2:
            yield name, value.contiguous()
            continue
        scales = value.flatten(1).abs().amax(dim=1).clamp(min=1e-12) / 127
        kernel = value / scales.view(-1, *[1] * (value.ndim - 1))
        yield name, kernel.round().to(torch.int8).contiguous()
        yield name + SCALES, scales
