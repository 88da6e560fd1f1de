"""Contestants of the quality benchmark, by the names that users write."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.torchvision_retinanet import as_torchvision
from benchmarks.yolo import NAME as YOLO_NAME
from cxr_mmdet.engine.config import load_config
from cxr_mmdet.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmengine.config import Config

TORCHVISION, START = "torchvision", "from:"


@dataclass(frozen=True)
class Contestant:
    """Contestant: a recipe, recipe and switches as ``retina_phantom+repeat_factor``, or another library's detector.

    ``retina_phantom@NAME`` trains on a label set. Several, as ``@NAME,NAME``, train a detector each on their part of
    the iterations; their detections are united. ``retina_small+from:FILE`` starts from weights, all others from random
    ones. ``+torchvision`` puts torchvision's RetinaNet on the recipe's backbone; ``yolo11n`` is ultralytics'.

    Attributes:
        name: as the user wrote it.
        recipe: the config's name.
        switches: the fragments put into it.
        torchvision: whether the recipe's detector gives way to torchvision's RetinaNet on the same backbone.
        labels: label sets of the prepared folder; by default its only one.
        start: what ``load_from`` says; None for random weights.
    """

    name: str
    recipe: str
    switches: tuple[str, ...] = ()
    torchvision: bool = False
    labels: tuple[str | None, ...] = (None,)
    start: str | None = None

    @property
    def is_yolo(self) -> bool:
        """Whether it is ultralytics', as ``yolo11n`` is."""
        return YOLO_NAME.fullmatch(self.recipe) is not None

    @property
    def pace_name(self) -> str:
        """Name under which its pace is kept: the start changes nothing about it, and its iterations are the same."""
        return self.name.replace(f"+{START}{self.start}", "")

    @classmethod
    def parse(cls, text: str) -> Contestant:
        """Return the contestant that ``text`` names, such as ``retina_lungs+torchvision``.

        Raises:
            UsageError: it has two starts, or is a YOLO with switches or a start, which would not be used.
        """
        rest, _, file = text.partition(f"+{START}")
        if not Path(file).is_file():  # a file's name may hold a plus sign
            rest, file = text, ""
        named, *parts = rest.split("+")
        recipe, _, labels = named.partition("@")
        starts = [part.removeprefix(START) for part in parts if part.startswith(START)] + [file] * bool(file)
        switches = tuple(part for part in parts if part != TORCHVISION and not part.startswith(START))
        sets = tuple(labels.split(",")) if labels else (None,)
        if len(starts) > 1:
            raise UsageError(f"{text}: starts from {' and from '.join(starts)}; name one of them.")
        start = starts[0] if starts else None
        contestant = cls(text, recipe, switches, torchvision=TORCHVISION in parts, labels=sets, start=start)
        if contestant.is_yolo and (starts or parts):
            raise UsageError(
                f"{text}: {recipe} takes neither switches nor a start of ours; name it alone, or set ultralytics' own "
                "options by --yolo-option."
            )
        return contestant

    def config(
        self, data_root: Path, work_dir: Path, cfg_options: Sequence[str] = (), labels: str | None = None
    ) -> Config:
        """Return its config on one of its label sets; without a start, from random weights."""
        config = load_config(
            self.recipe,
            data_root=data_root,
            labels=labels,
            work_dir=work_dir,
            load_from=self.start or "none",
            switches=self.switches,
            cfg_options=cfg_options,
        )
        return as_torchvision(config) if self.torchvision else config
