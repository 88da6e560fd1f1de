"""The page beside an exported model that says what it is, what it was checked on and what it is not for."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from cxr_mmdet.errors import counted
from cxr_mmdet.files import atomic_path
from cxr_mmdet.inference.backends.graphs import regions_name
from cxr_mmdet.inference.export.parity import nothing_compared
from cxr_mmdet.inference.spec import AnchorMaps, DistanceCoder, Queries
from cxr_mmdet.models.gate_rule import ScoreMode
from cxr_mmdet.pages import format_score

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from cxr_mmdet.inference.bundle import Bundle
    from cxr_mmdet.inference.spec import DeltaCoder, DetectorSpec, Regions
    from cxr_mmdet.models.gate_rule import GateRule

CARD_FILE = "MODEL_CARD.md"


_KINDS = (
    "one-stage detector",
    "two-stage detector (Faster R-CNN's kind)",
    "two-stage detector with a cascade (Cascade R-CNN's kind)",
)


def write_model_card(bundle: Bundle, path: Path) -> None:
    """Write the card of a bundle whose parity is known."""
    parts = [_head(bundle), _use(), _inputs(bundle)]
    if bundle.format != "torch":
        parts += [_outputs(bundle), _decoding(bundle)]
    parts += [_parity(bundle), *[_eight_bits(bundle)] * bundle.int8, _training(bundle)]
    with atomic_path(path) as temporary:
        temporary.write_text("\n\n".join(parts) + "\n", encoding="utf-8", newline="\n")


def _head(bundle: Bundle) -> str:
    regions = bundle.spec.regions
    stages = 0 if regions is None else 1 + bool(regions.refining)
    kind = "transformer (DINO)" if isinstance(bundle.spec.maps, Queries) else _KINDS[stages]
    bits = "eight bits (convolutions and linear layers)" if bundle.int8 else "single precision"
    names = "\n".join(f"{index}. {name}" for index, name in enumerate(bundle.class_names, 1))
    return (
        f"# {bundle.model_id}\n\nA {kind} for chest radiographs, as {bundle.format}, in {bits}. It gives boxes, "
        f"classes and scores for:\n\n{names}"
    )


def _use() -> str:
    return (
        "## Use and limits\n\nFor research. This is not a medical device: it has not been validated for diagnosis, and "
        "no decision about a patient may rest on it. It knows frontal chest radiographs like those it was trained on; "
        "other machines, projections, ages and diseases may give anything. Not finding something is not a sign of "
        "health.\n\n    cxr predict . radiographs/ --out findings --overlays"
    )


def _inputs(bundle: Bundle) -> str:
    steps = bundle.preprocessing
    rows: list[tuple[str, str]] = [
        ("Grey levels", "8 bits, black as 0, windowed as the file asks, pixels square"),
        ("Short edge", f"at most {steps.short_edge} px, by area interpolation" if steps.short_edge else "as it is"),
        (
            "Padding to a square",
            "black, the image centred, an odd pixel right or below" if steps.pad_to_square else "no",
        ),
        ("Size", _size(steps.scale, steps.keep_ratio)),
        ("Channels", "3 equal ones"),
        ("Normalisation", f"(grey - mean) / std; mean {_numbers(steps.mean)}; std {_numbers(steps.std)}"),
        (
            "Padding of the input",
            f"with {steps.pad_value:g}, right and below, to multiples of {steps.size_divisor} px",
        ),
    ]
    head = (
        "## Input\n\nA radiograph of any size goes through these steps, in this order, to `image` (N, 3, H, W) float32."
    )
    return f"{head}\n\n{_table(('', ''), rows)}"


def _outputs(bundle: Bundle) -> str:
    """Return the outputs of the graphs, by the names of :mod:`cxr_mmdet.inference.backends.graphs`."""
    maps, regions, depth = bundle.spec.maps, bundle.spec.regions, bundle.box_depth
    if isinstance(maps, Queries):
        rows = [
            ("maps", "scores_0", f"(N, {maps.count}, 1, {maps.channels}) logits per query and class"),
            (
                "maps",
                "deltas_0",
                f"(N, {maps.count}, 1, {maps.values}): centre x and y, width and height, in shares of the image"
                f"{'; the cell that the query starts from' if maps.starts else ''}",
            ),
        ]
    else:
        last = len(maps.strides) - 1
        anchors, strides = _numbers(maps.anchor_counts), _numbers(width for width, _ in maps.strides)
        logits = (
            f"(N, h, w, A * {maps.channels}) logits per level; strides {strides} px; A = {anchors} anchors per cell"
        )
        rows = [("maps", f"scores_0 … scores_{last}", logits)]
    if not depth and not isinstance(maps, Queries):
        content = "(N, h, w, A * 5): per anchor four deltas and the logit of its centerness"
        rows.append(("maps", f"deltas_0 … deltas_{last}", content if maps.centerness else "(N, h, w, A * 4)"))
    if depth or regions is not None:
        pyramid = "(cells + 1, C): the feature pyramid, level by level, image by image, row by row; then zeros"
        rows.append(("maps", "rows", pyramid))
    if bundle.spec.gate is not None:
        rows.append(("maps", "abnormal", "(N,) logits of p_abnormal"))
    if depth:
        branch = f"(n, A * 4) of the cells asked for; inputs rows, table_0 … table_{depth - 1}, cells"
        rows.append(("boxes", "deltas", branch))
    if regions is not None:
        height, width = regions.pooling.size_hw
        columns = 4 if regions.class_agnostic else 4 * len(bundle.class_names)
        pooled = (
            f"(R, {len(bundle.class_names) + 1}), background last; input pooled (R, {height} * {width} * C), by bins"
        )
        for graph in map(regions_name, range(len(regions.refining) + 1)):
            rows += [(graph, "logits", pooled), (graph, "deltas", f"(R, {columns})")]
    return "## Output\n\nThe graphs end at raw maps.\n\n" + _table(("Graph", "Output", "Content"), rows)


def _decoding(bundle: Bundle) -> str:
    spec, gate = bundle.spec, bundle.spec.gate
    steps = _decoding_of_queries(spec.maps) if isinstance(spec.maps, Queries) else _decoding_of_maps(spec)
    if gate is not None:
        steps.append(f"p_abnormal is the sigmoid of abnormal: {_gate(gate)}. Apply the score threshold again.")
    if spec.nms_is_adjustable:
        steps.append(f"NMS within each class at IoU {spec.nms_iou:g} leaves at most {spec.max_per_image} findings.")
    steps.append("Undo padding and resizing, cut boxes at the border of the radiograph, drop those without extent.")
    numbered = "\n".join(f"{number}. {step}" for number, step in enumerate(steps, 1))
    return (
        f"## From output to findings\n\n{numbered}\n\nAll numbers are in model.json. The script "
        "docs/examples/onnxruntime_only.py of cxr_mmdet does this without cxr_mmdet."
    )


def _decoding_of_queries(maps: Queries) -> list[str]:
    return [
        f"Scores are the sigmoid of scores_0. Keep the {maps.max_per_image} best pairs of query and class, of these "
        f"those whose score exceeds {maps.score_threshold:g}.",
        "A box is centre ± half of width and height, times width and height of the image. Cut it at the border of the "
        "image. There is no NMS.",
    ]


def _decoding_of_maps(spec: DetectorSpec) -> list[str]:
    maps, regions = spec.maps, spec.regions
    assert isinstance(maps, AnchorMaps), "queries are decoded otherwise"
    best = f"the {maps.nms_pre} best" if maps.nms_pre > 0 else "all"
    kept = f"Keep {best} of each level"
    is_sigmoid = maps.activation == "sigmoid"
    if regions is None:
        kept += f" among the pairs of anchor and class whose score exceeds {maps.score_threshold:g}"
        scores = f"{'sigmoid' if is_sigmoid else 'softmax, background last,'} of scores_i"
    else:  # of many proposals the probability is 1 in single precision
        scores = f"logits scores_i{'' if is_sigmoid else ', less the logits of the background, the second channel'}"
    steps = [
        f"Scores are the {scores}. {kept}.",
        "An anchor is one of the level's base_anchors in model.json plus column and row times the stride.",
        f"Decode boxes: {_coding(maps.coder)}",
    ]
    if maps.centerness:
        steps.append(
            "Multiply each score by the sigmoid of its anchor's centerness, the fifth delta. Keep products that exceed "
            f"{maps.score_threshold:g}."
        )
    if maps.min_size >= 0:
        steps.append(f"Drop boxes with a side of at most {maps.min_size:g} px.")
    if regions is not None:
        pooling = regions.pooling
        samples = f"{pooling.samples} samples" if pooling.samples else "a sample per cell, rounded up,"
        steps += [
            f"NMS within each level at IoU {maps.nms_iou:g} leaves at most {maps.max_per_image} proposals.",
            f"A proposal is pooled from level floor(log2(sqrt(area) / {regions.finest_scale:g})), clipped to "
            f"0 … {regions.levels - 1}, by RoIAlign with {samples} per bin and axis"
            f"{', aligned by half a cell' if pooling.aligned else ''}.",
            *_refining(regions),
            f"Scores are the softmax of logits. Keep those of a class that exceed {regions.score_threshold:g}.",
            f"Decode boxes from {'the last boxes' if regions.refining else 'proposals'}: {_coding(regions.coder)}",
        ]
    return steps


def _refining(regions: Regions) -> Iterator[str]:
    """Yield the steps of a cascade between its stages."""
    for stage, coder in enumerate(regions.refining):
        yield (
            f"Refine the boxes by the deltas of {regions_name(stage)}"
            f"{'' if regions.class_agnostic else ', those of the likeliest class'}: {_coding(coder)} Pool the refined "
            f"boxes likewise for {regions_name(stage + 1)}."
        )
    if regions.refining:
        yield f"Take the mean logits of the {len(regions.refining) + 1} stages and the deltas of the last."


def _coding(coder: DeltaCoder | DistanceCoder) -> str:
    border = " Cut at the border of the image." if coder.clip_border else ""
    if isinstance(coder, DistanceCoder):
        unit = "pixels of the input" if coder.in_pixels else "strides"
        return f"distances to the left, top, right and bottom side from the anchor's centre, in {unit}.{border}"
    return (
        "centre + side * (dx, dy), side * exp(dw, dh), with dw and dh in ±ln(1000 / 16); deltas are multiplied by "
        f"{_numbers(coder.stds)} and {_numbers(coder.means)} added before.{border}"
    )


def _gate(rule: GateRule) -> str:
    """Return the effect of the gate on the findings."""
    effects = {
        ScoreMode.leave: "the scores of findings stay",
        ScoreMode.multiply: f"the scores of findings are multiplied by {_power(rule.exponent)}",
        ScoreMode.cut: f"below {rule.cut:g} there are no findings",
    }
    return effects[rule.score_mode]


def _power(exponent: float) -> str:
    return "it" if exponent == 1 else f"its power {exponent:g}"


def _size(scale: tuple[int, int] | None, keep_ratio: bool) -> str:
    if scale is None:
        return "not"
    if keep_ratio:
        return f"short side {min(scale)} px, long side at most {max(scale)} px"
    return f"{scale[0]} x {scale[1]} px"


def _parity(bundle: Bundle) -> str:
    if bundle.parity is None:
        return "## Agreement with torch\n\nWas not measured."
    sets = bundle.parity["sets"]
    rows: list[tuple[str, ...]] = [
        (
            f"{entry['images']} {entry['name']}",
            str(entry["findings"]),
            str(entry["unmatched"]),
            f"{entry['largest_box_difference_px']:.3g}",
            f"{entry['largest_score_difference']:.2g}",
            format_score(entry["reference_mean_ap"]),
            format_score(entry["mean_ap"]),
        )
        for entry in sets
    ]
    head: tuple[str, ...] = ("Radiographs", "findings", "unmatched", "box, px", "score", "mAP, torch", "mAP")
    gates = [entry.get("largest_p_abnormal_difference") for entry in sets]
    if None not in gates:
        head = (*head, "p_abnormal")
        rows = [(*row, f"{gate:.2g}") for row, gate in zip(rows, gates, strict=True)]
    orders = [entry["largest_order_difference"] for entry in sets if entry.get("largest_order_difference") is not None]
    order = (
        " Torch's queries started from the cells that the graph chose, in its order; torch's own scores (logits) "
        f"contradict that order by at most {max(orders):.2g}."
        if orders
        else ""
    )
    nothing = nothing_compared(sets)
    nothing = f" **{nothing}.**" if nothing else ""
    head_line = f"## Agreement with torch\n\nLargest differences; the mAP is mAP@[.5:.95].{order}{nothing}\n\n"
    return head_line + _table(head, rows)


def _eight_bits(bundle: Bundle) -> str:
    rows = loss_rows(bundle.parity)
    note = "AP is AP@[.5:.95]. Differences have 95 % intervals over draws of patients, paired."
    table = f"\n\n{note}\n\n{_table(LOSS_HEAD, rows)}"
    return f"## Loss by eight bits\n\n{quantisation_sentences(bundle.parity)}{table if rows else ''}"


LOSS_HEAD = ("", "exact", "int8", "difference")


def quantisation_sentences(parity: Mapping[str, Any] | None) -> str:
    """Return what was calibrated on, and which layers stay in single precision."""
    facts = (parity or {}).get("quantisation")
    if facts is None:
        return "Was not measured."
    kept, control = facts["single_precision"], facts["control_images"]
    text = f"Calibrated on {counted(facts['calibration_images'], 'radiograph')}. "
    if not kept:
        return f"{text}All {facts['layers']} layers are in eight bits."
    text += f"{len(kept)} of {facts['layers']} layers stay in single precision: {', '.join(kept)}."
    if control:
        text += (
            f" They were chosen by the mAP of {counted(control, 'radiograph')} that the loss below is measured on too."
        )
    return text


def loss_rows(parity: Mapping[str, Any] | None) -> list[tuple[str, ...]]:
    """Return the scores in single precision and in eight bits with their difference, under :data:`LOSS_HEAD`."""
    losses = [entry["loss"] for entry in (parity or {}).get("sets", []) if entry.get("loss")]
    return [
        (name, format_score(scores["first"]["value"]), format_score(scores["second"]["value"]), _difference(scores))
        for loss in losses
        for name, scores in (
            ("mAP@[.5:.95]", loss["mean_ap"]),
            ("mAP@.5", loss["mean_ap_50"]),
            *((f"AP of {entry['name']}", entry["ap"]) for entry in loss["per_class"]),
        )
    ]


def _difference(scores: Mapping[str, Any]) -> str:
    value, low, high = (scores["difference"][key] for key in ("value", "low", "high"))
    if value is None:
        return format_score(None)
    return f"{value:+.4f}" + ("" if low is None else f" ({low:+.4f}…{high:+.4f})")


def _training(bundle: Bundle) -> str:
    rows = [(key.replace("_", " "), str(value)) for key, value in sorted(bundle.training.items())]
    versions = ", ".join(f"{name} {number}" for name, number in sorted(bundle.versions.items()))
    return f"## Training\n\n{_table(('', ''), rows)}\n\nExported with {versions}."


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def summarise(meta: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a checkpoint's meta data and config tell about the training, as plain values."""
    chosen = {key: meta[key] for key in ("iter", "seed", "mmengine_version") if isinstance(meta.get(key), (int, str))}
    start = config.get("load_from")
    if config.get("resume"):  # its load_from is the run's own checkpoint
        chosen["resumed"] = "yes"
    elif isinstance(start, str):  # a folder of the training machine tells a reader nothing
        chosen["start"] = start if "://" in start else PurePath(start).name
    else:
        chosen["start"] = "random weights"
    return chosen
