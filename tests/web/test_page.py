"""The page in a browser: a radiologist's way through it, and what it must not do on the way."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from urllib.parse import urlparse

import pytest
from serving_builders import make_room, phantom_dicom, running_site

from cxr_mmdet.web.store import Store

sync_api = pytest.importorskip("playwright.sync_api", reason="needs the Python package playwright")

BROWSER = os.environ.get("CXR_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="needs a browser: Debian's package chromium, or CXR_CHROMIUM"),
]
WAIT_MS = 180_000


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    room = make_room(store=Store.open(folder))
    with running_site(room, examples=2) as url:
        yield url, room
    room.close()


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(site, browser):
    """The page, opened; in the end nothing must have gone wrong in it, and nothing been asked of anybody else."""
    url, _ = site
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(WAIT_MS)
    hosts, errors = set(), []
    page.on("request", lambda request: hosts.add(urlparse(request.url).hostname))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(url)
    page.wait_for_selector(".cxr-example")
    yield page
    page.close()
    assert hosts <= {"127.0.0.1", None, ""}, "only the service itself is asked"
    assert errors == []


def upload(page, name: str, content: bytes) -> None:
    page.set_input_files(
        "#cxr-upload input[type=file]", {"name": name, "mimeType": "application/dicom", "buffer": content}
    )


def image(page, pane: int = 1) -> str:
    return page.locator(".cxr-stage img").nth(pane).get_attribute("src")


def changed(page, before: str, pane: int = 1) -> str:
    page.wait_for_function(
        "([pane, before]) => document.querySelectorAll('.cxr-stage img')[pane].src !== before", arg=[pane, before]
    )
    return image(page, pane)


def set_slider(page, name: str, value: float) -> None:
    field = page.locator(f"#{name} input[type=number]")
    field.fill(str(value))
    field.press("Enter")
    field.blur()


def rows(page) -> int:
    return page.locator("#cxr-findings tr[data-key]").count()


def wait_rows(page, condition: str) -> int:
    page.wait_for_function(f"(n => {condition})(document.querySelectorAll('#cxr-findings tr[data-key]').length)")
    return rows(page)


def test_a_radiologists_way_through_the_page(site, page, tmp_path):
    _, room = site
    upload(page, "phantom.dicom", phantom_dicom())
    page.wait_for_selector(".cxr-live img")
    first = wait_rows(page, "n > 3")

    # A slider: fewer findings, another image, and the network does not run again.
    original, overlay = image(page, 0), image(page)
    maps = room.predictor.model.backend.maps
    try:
        room.predictor.model.backend.maps = lambda *_: pytest.fail("the network ran again")
        set_slider(page, "cxr-score", 0.6)
        fewer = wait_rows(page, f"n < {first}")
        overlay = changed(page, overlay)
        assert image(page, 0) == original

        # A class switch.
        name = page.locator("#cxr-findings tr[data-key] td").first.inner_text().strip()
        page.locator("#cxr-classes").get_by_label(name, exact=True).uncheck()
        wait_rows(page, f"n < {fewer}")
        overlay = changed(page, overlay)
        page.locator("#cxr-classes").get_by_label(name, exact=True).check()
        wait_rows(page, f"n === {fewer}")
        overlay = changed(page, overlay)

        # Window, inversion and zoom change both images.
        for act in (
            lambda: page.get_by_label("Invert").check(),
            lambda: set_slider(page, "cxr-width", 4000),
            lambda: set_slider(page, "cxr-zoom", 2),
        ):
            original = image(page, 0)
            act()
            changed(page, original, 0)
        page.locator("#cxr-reset").click()
        page.wait_for_selector('.cxr-panes[data-zoom="1.00"]')
    finally:
        room.predictor.model.backend.maps = maps

    # Verdicts: the first row is chosen already; agreeing goes on to the next.
    page.locator("#cxr-reader input, #cxr-reader textarea").fill("Dr Test")
    page.locator("#cxr-agree").click()
    page.wait_for_selector(".cxr-agree:has-text('agreed')")
    page.locator("#cxr-finish").click()
    page.wait_for_selector(f"[role=alert]:has-text('{'finding waits' if fewer == 2 else 'findings wait'}')")
    for done in range(1, fewer):
        page.locator("#cxr-absent").click()
        page.wait_for_function("n => document.querySelectorAll('.cxr-absent').length === n", arg=done)

    # A missed one is drawn.
    page.locator("#cxr-draw").click()
    page.locator(".cxr-live").scroll_into_view_if_needed()
    box = page.locator(".cxr-live").bounding_box()
    page.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 0.5 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.6 * box["height"], steps=4)
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.75 * box["height"], steps=4)
    page.mouse.up()
    page.wait_for_function("() => document.querySelector('#cxr-box input, #cxr-box textarea').value.includes(',')")
    page.get_by_label("Right class, or the one that was missed").click()
    page.get_by_role("option", name="ILD").click()
    page.locator("#cxr-missed").click()
    page.wait_for_selector(".cxr-extra:has-text('missed by the model')")
    page.wait_for_selector(".cxr-mark")
    page.locator("#cxr-finish").click()
    page.wait_for_selector(".cxr-done")

    # All of it is in the store, as drawn.
    (reading,) = room.store.readings()
    assert (reading.reader, reading.finished) == ("Dr Test", True)
    kinds = [verdict.kind.name for verdict in reading.verdicts]
    assert sorted(kinds) == sorted(["agree", *["absent"] * (fewer - 1), "missed"])
    height, width = reading.image.size_hw
    drawn = reading.verdicts[-1].box_xyxy
    assert drawn == pytest.approx((0.25 * width, 0.5 * height, 0.5 * width, 0.75 * height), abs=0.02 * height)

    # Everything can be taken along.
    for kind, start in (
        ("png", b"\x89PNG"),
        ("json", b"{"),
        ("csv", b"image_id"),
        ("sr", b""),
        ("sc", b""),
        ("pr", b""),
    ):
        with page.expect_download() as waiting:
            page.locator(f"[data-download={kind}]").click()
        content = Path(waiting.value.path()).read_bytes()
        assert content[128:132] == b"DICM" if kind in ("sr", "sc", "pr") else content.startswith(start)
        if kind == "json":
            assert len(json.loads(content)["images"][0]["verdicts"]) == fewer + 1


def test_row_and_box_belong_together_by_mouse_and_keyboard(page):
    page.locator(".cxr-example").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(".cxr-live img")
    wait_rows(page, "n > 2")
    row = page.locator("#cxr-findings tr[data-key]").nth(1)
    key = row.get_attribute("data-key")
    box = page.locator(f'#cxr-viewer [data-key="{key}"]')
    row.hover()
    assert "is-hovered" in box.get_attribute("class")
    page.locator("#cxr-findings tr[data-key]").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert "is-selected" in box.get_attribute("class")
    page.wait_for_selector("#cxr-findings tr.is-selected")
    before = image(page, 0)
    page.locator(".cxr-live").focus()
    page.keyboard.press("+")
    changed(page, before, 0)


ONE_AFTER_ANOTHER = """async rounds => {
  const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
  const shown = () => document.querySelectorAll('.cxr-stage img')[0].src;
  for (let round = 0; round < rounds; round++) {
    document.querySelectorAll('#cxr-findings tr[data-key]')[round % 2].click();
    await pause(20 + 40 * round / rounds);
    const before = shown(), start = performance.now(), key = round % 2 ? '-' : '+';
    document.querySelector('.cxr-live').dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true}));
    while (shown() === before) {
      if (performance.now() - start > 20000) return `nothing came of ${key} in round ${round}`;
      await pause(5);
    }
  }
  return '';
}"""


def test_an_action_that_begins_while_another_is_answered_is_answered_too(page):
    page.locator(".cxr-example").first.click()
    page.wait_for_selector(".cxr-live img")
    set_slider(page, "cxr-score", 0.6)
    wait_rows(page, "n > 1 && n < 60")
    assert page.evaluate(ONE_AFTER_ANOTHER, 45) == ""


def test_a_hostile_upload_is_refused_in_one_sentence_and_the_page_lives_on(page):
    upload(page, "page.dcm", b"<!doctype html><html><script>document.title='owned'</script></html>")
    page.wait_for_selector("[role=alert]:has-text('page.dcm: not a DICOM file')")
    upload(page, "<img src=x onerror=document.title=1>.dcm", b"junk")
    page.wait_for_selector("[role=alert]:has-text('onerror')")
    assert page.title() == "Chest radiographs, a second look"
    upload(page, "fine.dicom", phantom_dicom(1))
    page.wait_for_selector(".cxr-live img")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(site, browser, scheme):
    url, _ = site
    page = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    page.set_default_timeout(WAIT_MS)
    page.goto(url)
    page.locator(".cxr-example").first.click()
    page.wait_for_selector(".cxr-live img")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.locator(".cxr-live").bounding_box()["width"] > 300

    # The ring around the chosen box takes less than the padding of its label.
    ring = page.evaluate("getComputedStyle(document.querySelector('.cxr-hit.is-selected')).boxShadow")
    assert max(int(width) for width in re.findall(r"(\d+)px(?:,|$)", ring)) <= 3

    # What an action says is seen where the action is; so is the number it zooms to.
    page.locator("#cxr-wrong-class").click()
    message = page.locator("[role=alert]")
    message.wait_for()
    box = message.bounding_box()
    assert 0 <= box["y"] <= box["y"] + box["height"] <= 844
    message.click()
    message.wait_for(state="hidden")
    page.locator("#cxr-wrong-class").click()
    page.locator("[role=alert]").wait_for()
    for _ in range(3):
        before = image(page, 0)
        page.locator(".cxr-live").focus()
        page.keyboard.press("+")
        changed(page, before, 0)
    assert len(page.locator("#cxr-zoom input[type=number]").input_value()) <= 4
    page.close()


def test_long_names_are_shown_whole(site, browser):
    url, _ = site
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.set_default_timeout(WAIT_MS)
    page.goto(url)
    page.wait_for_selector(".cxr-example")
    names = [f"A radiograph of the chest 1.2.840.113619.2.5.1762583153.215519.978957063.{n}.dcm" for n in (1, 2)]
    files = [{"name": name, "mimeType": "application/dicom", "buffer": phantom_dicom()} for name in names]
    page.set_input_files("#cxr-upload input[type=file]", files)
    page.wait_for_selector("#cxr-chooser label >> nth=1")
    for label in page.locator("#cxr-chooser label span").all():
        assert label.evaluate("each => each.scrollWidth <= each.clientWidth + 1")
        assert label.bounding_box()["x"] + label.bounding_box()["width"] <= 390
    assert page.locator("#cxr-chooser").inner_text().count(".dcm") == 2
    page.close()
