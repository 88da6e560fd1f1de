"""Counts printed before training: images, boxes and share of draws per class, from the sampler's own weights."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from cxr_mmdet.datasets.draw_plan import DrawPlan, plan_draws
from cxr_mmdet.datasets.sampler import SeededInfiniteSampler
from cxr_mmdet.errors import counted

if TYPE_CHECKING:
    import logging

    from torch.utils.data import DataLoader

_LOG_WIDTH = 100


@dataclass(frozen=True)
class GroupDraws:
    """Draws of the images of one class, or of all normal images.

    Attributes:
        name: the class, or what else the images have in common.
        images: how many there are, virtual copies included.
        boxes: how many boxes of the class they hold.
        repeat_factor: how often the class asks to be repeated; None for what is not a class.
        share: the part of all draws that shows such an image, in the long run.
        unknown: how many images do not show whether they hold the class.
    """

    name: str
    images: int
    boxes: int
    repeat_factor: float | None
    share: float
    unknown: int = 0


@dataclass(frozen=True)
class DrawCounts:
    """Images, boxes and draws of a training.

    Attributes:
        images: all there are, virtual copies included.
        copies: how many of them are virtual copies.
        classes: per class, in label order; their shares overlap where an image holds several.
        abnormal: the images with any finding, or of which nobody knows whether they are normal.
        normal: those without; the two shares sum to 1.
    """

    images: int
    copies: int
    classes: tuple[GroupDraws, ...]
    abnormal: GroupDraws
    normal: GroupDraws


def count_draws(plan: DrawPlan, copies: int = 0) -> DrawCounts:
    """Return what is drawn by ``plan``, of whose entries ``copies`` are virtual."""
    shares, normal = plan.shares(), plan.normal
    classes = []
    for label, name in enumerate(plan.classes):
        held = plan.holding(label)
        boxes = sum(labels.count(label) for labels in plan.labels)
        factor = float(plan.class_factors[label])
        unknown = 0 if plan.known is None else int((~plan.known[:, label]).sum())
        classes.append(GroupDraws(name, int(held.sum()), boxes, factor, float(shares[held].sum()), unknown))
    boxes = sum(map(len, plan.labels))
    abnormal = GroupDraws(
        "finding or unknown" if plan.undecided else "any finding",
        int((~normal).sum()),
        boxes,
        None,
        float(shares[~normal].sum()),
        len(plan.undecided),
    )
    no_finding = GroupDraws("normal", int(normal.sum()), 0, None, float(shares[normal].sum()))
    return DrawCounts(len(normal), copies, tuple(classes), abnormal, no_finding)


def draws_table(counts: DrawCounts, plan: DrawPlan) -> Table:
    """Return the counts as a table that fits 80 columns."""
    copies = f", {counts.copies} of them virtual copies" if counts.copies else ""
    threshold = "off" if plan.repeat_threshold is None else f"{plan.repeat_threshold:g}"
    share = "off" if plan.normal_share is None else f"{float(plan.normal_share):g}"
    table = Table(
        title=f"Training draws from {counted(counts.images, 'image')}{copies}",
        title_style="bold",
        title_justify="left",
        caption=f"repeat_threshold {threshold}, normal_share {share}",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("", overflow="fold")
    partly = plan.known is not None
    headers = ("images", "boxes", "repeat factor", "of images", "of draws")
    for header in ("images", "unknown", "boxes", "repeat", "of known", "of draws") if partly else headers:
        table.add_column(header, justify="right", no_wrap=True)
    for group in (*counts.classes, counts.abnormal, counts.normal):
        if group is counts.abnormal:
            table.add_section()
        table.add_row(*_row(group, counts.images, partly))
    return table


def announce_draws(dataloader: DataLoader, logger: logging.Logger) -> None:
    """Print what ``dataloader`` will draw on stderr and into the log file, if our sampler draws.

    The logger's console leaves out long messages (``CheckedRunner.build_logger``), so that the table stands there once.
    """
    sampler = getattr(dataloader.batch_sampler, "sampler", None)
    if not isinstance(sampler, SeededInfiniteSampler) or not hasattr(sampler.dataset, "get_cat_ids"):
        return
    plan = sampler.plan or plan_draws(sampler.dataset)
    table = draws_table(count_draws(plan, copies=getattr(sampler.dataset, "copies", 0)), plan)
    text = io.StringIO()
    Console(file=text, width=_LOG_WIDTH).print(table)
    logger.info("\n" + "\n".join(line.rstrip() for line in text.getvalue().splitlines()))
    Console(stderr=True).print(table)


def _row(group: GroupDraws, images: int, partly: bool) -> tuple[Any, ...]:
    factor = "" if group.repeat_factor is None else f"{group.repeat_factor:.2f}"
    known = images if group.repeat_factor is None else images - group.unknown
    percents = (f"{100 * part:.1f} %" for part in (group.images / max(known, 1), group.share))
    return group.name, str(group.images), *([str(group.unknown)] if partly else []), str(group.boxes), factor, *percents
