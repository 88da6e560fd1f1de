"""The page beside an exported model that says what it is, what it was checked on and what it is not for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cxr_mmdet.files import atomic_path
from cxr_mmdet.models.gate_rule import ScoreMode
from cxr_mmdet.pages import format_score

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from cxr_mmdet.inference.bundle import Bundle
    from cxr_mmdet.models.gate_rule import GateRule

CARD_FILE = "MODEL_CARD.md"

_SENTENCES = {
    "one": "one-stage detector (RetinaNet's kind)",
    "two": "two-stage detector (Faster R-CNN's kind)",
}


def write_model_card(bundle: Bundle, path: Path) -> None:
    """Write the card of a bundle whose parity is known."""
    parts = (_head(bundle), _use(), _inputs(bundle), _parity(bundle), _training(bundle))
    with atomic_path(path) as temporary:
        temporary.write_text("\n\n".join(parts) + "\n", encoding="utf-8", newline="\n")


def _head(bundle: Bundle) -> str:
    kind = _SENTENCES["one" if bundle.spec.regions is None else "two"]
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
        "other machines, projections, ages and diseases may give anything. Not finding something is no sign of "
        "health.\n\n    cxr predict . radiographs/ --out findings --overlays"
    )


def _inputs(bundle: Bundle) -> str:
    steps = bundle.preprocessing
    edge = f"at most {steps.short_edge} px" if steps.short_edge else "the full size"
    rows: list[tuple[str, str]] = [
        ("Short edge of the prepared picture", edge),
        ("Padding to a square", "yes, centred, black" if steps.pad_to_square else "no"),
        ("Resized to", _size(steps.scale, steps.keep_ratio)),
        ("Mean, standard deviation", f"{_numbers(steps.mean)}; {_numbers(steps.std)}"),
        ("Score threshold, NMS IoU", f"{bundle.spec.score_threshold:g}; {bundle.spec.nms_iou:g}"),
    ]
    if bundle.spec.gate is not None:
        rows.append(("Abnormality gate", _gate(bundle.spec.gate)))
    return "## Input\n\nA radiograph of any size, as its file asks to be shown.\n\n" + _table(("", ""), rows)


def _gate(rule: GateRule) -> str:
    """Return what p_abnormal is, and what the gate does to the findings."""
    effects = {
        ScoreMode.leave: "the scores of findings stay",
        ScoreMode.multiply: f"the scores of findings are multiplied by {_power(rule.exponent)}",
        ScoreMode.cut: f"below {rule.cut:g} there are no findings",
    }
    return f"p_abnormal has a head of its own; {effects[rule.score_mode]}"


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
            f"{entry['pictures']} {entry['name']}",
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
    return "## Agreement with torch\n\nLargest differences; the mAP is mAP@[.5:.95].\n\n" + _table(head, rows)


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
    chosen["start"] = start if isinstance(start, str) else "random weights"
    return chosen
