"""The page: what stands where, and which of it calls which action."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import gradio as gr

from cxr_mmdet.errors import CxrError
from cxr_mmdet.inference.candidates import FLOOR
from cxr_mmdet.web.actions import Actions
from cxr_mmdet.web.cases import Filter
from cxr_mmdet.web.exports import describe
from cxr_mmdet.web.markup import asset, examples_html, header_html, viewer_html
from cxr_mmdet.web.rendering import MAX_ZOOM
from cxr_mmdet.web.uploads import uploaded_file
from cxr_mmdet.web.verdicts import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from cxr_mmdet.web.examples import Example
    from cxr_mmdet.web.room import ReadingRoom

TITLE = "Chest radiographs, a second look"
FOOTER = ["api", "settings"]

_SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "Liberation Sans", "sans-serif")
_MONO = ("ui-monospace", "Menlo", "Consolas", "Liberation Mono", "monospace")

_SESSION_S = 2 * 3600

_DISMISS = """element.addEventListener('click', (event) => {
  const message = event.target.closest('.cxr-message');
  if (message) message.hidden = true;
});"""

_TOGGLE_DRAWING = """() => {
  const on = document.body.dataset.cxrDraw === '1';
  document.body.dataset.cxrDraw = on ? '' : '1';
  const button = document.querySelector('#cxr-draw');
  button.setAttribute('aria-pressed', String(!on));
  button.classList.toggle('primary', !on);
  button.classList.toggle('secondary', on);
}"""


@dataclass(frozen=True)
class Parts:
    """Components of the page that actions read and change."""

    session: gr.State
    upload: gr.File
    chooser: gr.Radio
    message: gr.HTML
    viewer: gr.HTML
    about: gr.HTML
    center: gr.Slider
    width: gr.Slider
    zoom: gr.Slider
    invert: gr.Checkbox
    score: gr.Slider
    nms: gr.Slider
    classes: gr.CheckboxGroup
    findings: gr.HTML
    label: gr.Dropdown
    box: gr.Textbox
    reader: gr.Textbox
    downloads: gr.HTML
    work: gr.Column

    @property
    def all(self) -> list[Any]:
        """In one list, for actions that may change anything."""
        return [getattr(self, field.name) for field in fields(self)]


def page_style() -> dict[str, Any]:
    """Return theme and style for mounting; all fonts are the visitor's own, since nothing is fetched."""
    theme = gr.themes.Default(
        primary_hue=gr.themes.colors.cyan, neutral_hue=gr.themes.colors.slate, font=_SANS, font_mono=_MONO
    )
    return {"theme": theme, "css": asset("page.css")}


def build_page(room: ReadingRoom, examples: Sequence[Example], folder: Path, *, upload_seconds: int) -> gr.Blocks:
    """Return the page.

    Args:
        room: behind it.
        examples: to try it with.
        folder: that uploads come from.
        upload_seconds: after which uploaded files are removed from the disk.
    """
    actions = Actions(room, examples, folder)
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(60, upload_seconds)) as page:
        session = gr.State(actions.new_session(), time_to_live=_SESSION_S, delete_callback=actions.forget)
        gr.HTML(header_html(room))
        with gr.Row(elem_id="cxr-top"):
            with gr.Column(scale=5, min_width=300):
                # Without file_types, by which Gradio would refuse DICOM files that have no suffix.
                upload = gr.File(
                    label="Radiographs: DICOM, PNG, JPEG or TIFF, several or a zip", file_count="multiple",
                    height=150, elem_id="cxr-upload",
                )  # fmt: skip
            with gr.Column(scale=4, min_width=300):
                gallery = gr.HTML(examples_html(examples), js_on_load=asset("viewer.js"))
        chooser = gr.Radio(choices=[], label="Radiographs", visible=False, elem_id="cxr-chooser")
        message = gr.HTML("", elem_id="cxr-message", js_on_load=_DISMISS)
        with gr.Column(visible=False) as work, gr.Row():
            with gr.Column(scale=7, min_width=320, elem_id="cxr-images"):
                viewer, about, center, width, zoom, invert, reset = _images()
                downloads = gr.HTML()
            with gr.Column(scale=4, min_width=320):
                score, nms, classes = _thresholds(room)
                findings, label, box, reader, buttons = _verdicts(room)
        parts = Parts(
            session=session, upload=upload, chooser=chooser, message=message, viewer=viewer, about=about,
            center=center, width=width, zoom=zoom, invert=invert, score=score, nms=nms, classes=classes,
            findings=findings, label=label, box=box, reader=reader, downloads=downloads, work=work,
        )  # fmt: skip
        actions.parts = parts
        _wire(parts, actions, gallery, reset, buttons)
        page.load(actions.greet, None, [reader], api_visibility="private", show_progress="hidden", queue=False)
        _add_api(room, folder)
    page.queue(default_concurrency_limit=4, max_size=256)
    return page


def _images() -> tuple[Any, ...]:
    viewer = gr.HTML(viewer_html(None, None), js_on_load=asset("viewer.js"), elem_id="cxr-viewer")
    with gr.Row():
        center = gr.Slider(0, 1, value=0.5, label="Window centre", min_width=140, elem_id="cxr-center")
        width = gr.Slider(1, 2, value=1, label="Window width", min_width=140, elem_id="cxr-width")
        zoom = gr.Slider(1, MAX_ZOOM, value=1, step=0.25, label="Zoom", min_width=140, elem_id="cxr-zoom")
    with gr.Row(equal_height=True):
        invert = gr.Checkbox(label="Invert", container=False, min_width=110, elem_id="cxr-invert")
        reset = gr.Button("Reset view", size="sm", min_width=110, elem_id="cxr-reset")
        draw = gr.Button("Draw a box", size="sm", min_width=110, elem_id="cxr-draw")
    draw.click(None, js=_TOGGLE_DRAWING)
    about = gr.HTML()
    return viewer, about, center, width, zoom, invert, reset


def _thresholds(room: ReadingRoom) -> tuple[Any, ...]:
    start = room.default_filter
    with gr.Group():
        score = gr.Slider(FLOOR, 1, value=start.score, step=0.01, label="Confidence at least", elem_id="cxr-score")
        nms = gr.Slider(
            0, 1, value=start.nms_iou, step=0.01, label="NMS IoU (overlap)", elem_id="cxr-nms",
            interactive=room.predictor.model.spec.nms_is_adjustable,
        )  # fmt: skip
    with gr.Accordion("Classes", open=len(room.class_names) <= 6, elem_id="cxr-classes-box"):
        classes = gr.CheckboxGroup(
            list(room.class_names), value=list(room.class_names), show_label=False, container=False,
            elem_id="cxr-classes",
        )  # fmt: skip
    return score, nms, classes


def _verdicts(room: ReadingRoom) -> tuple[Any, ...]:
    findings = gr.HTML(js_on_load=asset("viewer.js"), elem_id="cxr-findings")
    with gr.Group(elem_id="cxr-verdict"):
        label = gr.Dropdown(list(room.class_names), value=None, label="Right class, or the one that was missed")
        with gr.Row():
            box = gr.Textbox(
                label="Box (pixels)", placeholder="x_min, y_min, x_max, y_max", scale=3, min_width=180,
                elem_id="cxr-box",
            )  # fmt: skip
            reader = gr.Textbox(label="Reader", value="reader", scale=2, min_width=110, elem_id="cxr-reader")
    buttons: dict[str, gr.Button] = {}
    for row in (
        (("Agree", Kind.agree.name), ("Nothing there", Kind.absent.name)),
        (("Wrong class", Kind.wrong_class.name), ("Wrong box", Kind.wrong_box.name), ("Missed one", Kind.missed.name)),
        (("Take back", "take_back"), ("Finish reading", "finish")),
    ):
        with gr.Row():
            for title, name in row:
                buttons[name] = gr.Button(title, size="sm", min_width=90, elem_id=f"cxr-{name.replace('_', '-')}")
    buttons["finish"].variant = "primary"
    return findings, label, box, reader, buttons


def _wire(parts: Parts, actions: Actions, gallery: gr.HTML, reset: gr.Button, buttons: dict[str, gr.Button]) -> None:
    shown = [parts.session, parts.score, parts.nms, parts.classes]
    looked = [parts.session, parts.center, parts.width, parts.zoom, parts.invert]
    said = [parts.session, parts.reader, parts.label, parts.box]
    slow: dict[str, Any] = {"outputs": parts.all, "api_visibility": "private", "concurrency_limit": 4}
    # Not through the queue: its answers come over a stream that ends with the last of them, and an action that begins
    # while it ends, as the next key or click does, waits for an answer until another action opens the next stream.
    quick: dict[str, Any] = {
        "outputs": parts.all, "api_visibility": "private", "show_progress": "hidden", "queue": False
    }  # fmt: skip
    live: dict[str, Any] = quick | {"trigger_mode": "always_last"}

    parts.upload.upload(actions.open_files, [parts.upload, *shown], **slow)
    gallery.example(actions.open_example, shown, **slow)
    parts.chooser.input(actions.choose_case, [parts.chooser, *shown], **quick)
    for control in (parts.score, parts.nms, parts.classes):
        control.input(actions.filter, shown, **live)
    for control in (parts.center, parts.width):
        control.input(actions.window, looked, **live)
    for control in (parts.zoom, parts.invert):  # type: ignore[assignment]
        control.input(actions.look, looked, **live)
    reset.click(actions.reset, [parts.session], **quick)
    parts.viewer.pan(actions.pan, [parts.session], **live)
    parts.viewer.zoomed(actions.zoom_by, [parts.session], **live)
    parts.viewer.drawn(actions.draw, [parts.session], **quick)
    for table in (parts.viewer, parts.findings):
        table.chosen(actions.choose_finding, [parts.session], **live)
    for kind in Kind:
        buttons[kind.name].click(_judging(actions, kind), said, **quick)
    buttons["take_back"].click(actions.take_back, said, **quick)
    buttons["finish"].click(actions.finish, said, **quick)


def _judging(actions: Actions, kind: Kind) -> Callable[..., Any]:
    def judge(session: dict[str, Any], reader: str, label: str | None, box: str, request: gr.Request) -> Any:
        return actions.judge(kind, session, reader, label, box, request)

    return judge


def _add_api(room: ReadingRoom, folder: Path) -> None:
    """Add the one end point for programs: files in, findings.json out, nothing held."""
    with gr.Column(visible=False):
        files = gr.File(file_count="multiple", label="files")
        score = gr.Number(room.default_filter.score, label="score_threshold")
        nms = gr.Number(room.default_filter.nms_iou, label="nms_iou")
        result = gr.JSON(label="findings")
        button = gr.Button("Predict")

    def predict(files: list[str], score_threshold: float, nms_iou: float) -> dict[str, Any]:
        return predict_files(room, folder, files, score_threshold, nms_iou)

    button.click(predict, [files, score, nms], [result], api_name="predict", concurrency_limit=2)


def predict_files(
    room: ReadingRoom,
    folder: Path,
    files: Sequence[str] | None,
    score_threshold: float | None,
    nms_iou: float | None,
) -> dict[str, Any]:
    """Return the findings of files in the folder of uploads; those that are not radiographs stand under ``failures``.

    Raises:
        gr.Error: the upload as a whole is refused, or a threshold makes no sense.
    """
    if not files:
        raise gr.Error("no file was sent.", print_exception=False)
    start = room.default_filter
    shown = Filter(
        start.score if score_threshold is None else score_threshold, start.nms_iou if nms_iou is None else nms_iou
    )
    try:
        cases, problems = room.open_files([uploaded_file(file, folder) for file in files], shown)
        described = [describe(case) for case in cases]
    except CxrError as error:
        raise gr.Error(str(error), print_exception=False) from None
    room.cases.drop([case.token for case in cases])
    images = [image for each in described for image in each["images"]]  # type: ignore[attr-defined]
    for image, case in zip(images, cases, strict=True):
        del image["verdicts"]
        image["seconds"] = {"decoding": round(case.seconds[0], 4), "network": round(case.seconds[1], 4)}
    return {"labels": list(room.class_names), "images": images, "failures": problems, "research_use_only": True}
