"""The scalars that mmengine wrote while training, as one image."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from cxr_mmdet.files import atomic_path

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

Scalars = dict[str, dict[int, float]]
"""Name → iteration → value."""

_MAP_NAMES = {"bbox/mAP": "mAP@[.5:.95]", "bbox/mAP_50": "mAP@.5"}


def read_scalars(work_dir: Path, runs: Sequence[str]) -> Scalars:
    """Return every scalar that these runs logged; where a resumed run went over the same iterations, its value stands.

    Args:
        work_dir: the folder of the runs.
        runs: their folders' names in it, the oldest first.
    """
    scalars: Scalars = {}
    for path in (work_dir / run / "vis_data" / "scalars.json" for run in runs):
        if not path.is_file():
            continue
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue  # the last line of a run that was killed while writing
            step = record.get("step", record.get("iter"))
            for name, value in record.items():
                if step is not None and isinstance(value, (int, float)):
                    scalars.setdefault(name, {})[int(step)] = float(value)
    return scalars


def draw_curves(work_dir: Path, runs: Sequence[str]) -> Path | None:
    """Draw ``curves.png`` in ``work_dir``: losses, learning rate, validation mAP over iterations.

    Args:
        work_dir: the folder of the runs.
        runs: their folders' names in it, the oldest first.

    Returns:
        The image's path, or None when nothing was logged.
    """
    scalars = read_scalars(work_dir, runs)
    losses = {name: scalars[name] for name in sorted(scalars) if name.startswith("loss")}
    maps = {title: scalars[name] for name, title in _MAP_NAMES.items() if name in scalars}
    if not losses and not maps:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    loss_axes, rate_axes, map_axes = figure.subplots(1, 3)
    _plot(loss_axes, losses, "Training loss", "loss (mean of the last iterations)")
    loss_axes.set_ylim(bottom=0)
    _plot(rate_axes, {"lr": scalars.get("lr", {})}, "Learning rate", "lr")
    rate_axes.set_ylim(bottom=0)
    _plot(map_axes, maps, "Validation", "mAP", marker="o")
    map_axes.set_ylim(0, 1)
    target = work_dir / "curves.png"
    with atomic_path(target) as temporary:
        figure.savefig(temporary, dpi=110)
    return target


def _plot(axes: Axes, curves: Scalars, title: str, y_label: str, marker: str | None = None) -> None:
    for name, points in curves.items():
        steps = sorted(points)
        axes.plot(steps, [points[step] for step in steps], label=name, marker=marker, markersize=4)
    axes.set(title=title, xlabel="iteration", ylabel=y_label)
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    if any(curves.values()) and len(curves) > 1:
        # A mAP rises. "best" would cover the point of a single validation.
        axes.legend(fontsize="small", loc="upper left" if marker else "best")
