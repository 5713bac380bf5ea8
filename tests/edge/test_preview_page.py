"""The page in a real browser: headless Chromium through Playwright.

``EDGE_SCREENSHOTS=docs/images`` keeps the screenshots there, to be looked at.
"""

import itertools
import os
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

for package in ("starlette", "uvicorn", "websockets", "prometheus_client"):
    pytest.importorskip(package)
sync_api = pytest.importorskip("playwright.sync_api")

import edge
from edge.outputs.address import TOKEN_VARIABLE
from edge.outputs.preview import Preview
from edge.synthetic import SyntheticSource
from edge.types import Box, Face, FaceState, Frame, Result

DESKTOP, PHONE = (1280, 800), (390, 844)
SECONDS = 14 if "EDGE_SCREENSHOTS" in os.environ else 2
"""Of watching before the screenshot: one that is to be shown has a history."""

GREEN = (62, 207, 142)
"""RGB of a box whose label is sure."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        own = Path(playwright.chromium.executable_path)
        found = own if own.exists() else next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
        if found is None:
            pytest.skip("no Chromium here; type: playwright install chromium, or apt-get install chromium")
        opened = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser, monkeypatch):
    """Opens a page and checks, when the test is over, that it complained of nothing and asked no other host."""
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    contexts, complaints, hosts = [], [], set()

    def open_at(url, size=DESKTOP, scheme="dark"):
        context = browser.new_context(
            viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, is_mobile=size == PHONE
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        # A lost connection is complained of by the browser itself.
        page.on("console", lambda m: complaints.append(m.text) if m.type == "error" and "net::ERR" not in m.text else 0)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: hosts.add(request.url.split("/")[2]))
        page.add_init_script(
            "window.shifts = 0; new PerformanceObserver((list) => { for (const e of list.getEntries()) "
            "window.shifts += e.value; }).observe({type: 'layout-shift', buffered: true});"
        )
        page.goto(url)
        return page

    yield open_at
    for context in contexts:
        context.close()
    assert not complaints
    assert {host.split(":")[0] for host in hosts} <= {"127.0.0.1"}


@pytest.fixture
def loop():
    """The real loop before the synthetic camera while it looks at the face, with a preview: ``loop(private=False)``."""
    running = []

    def start(**options):
        preview, stop = Preview("127.0.0.1:0", counters=lambda: {"dropped": 0}, **options), threading.Event()

        def watch():
            camera, begun = SyntheticSource(), time.monotonic()
            with edge.Recognizer() as recognizer:
                for number in itertools.count():
                    # There and back between 0.5 and 3.5 seconds, all of which have the face in view.
                    image = camera.picture(0.5 + abs((time.monotonic() - begun) % 6 - 3))
                    now = time.monotonic_ns()
                    preview.write(Frame(number, now, image, now), replace(recognizer.process(image, now), frame=number))
                    if stop.wait(0.03):
                        break

        thread = threading.Thread(target=watch)
        running.append((preview, stop, thread))
        thread.start()
        return preview

    yield start
    for preview, stop, thread in running:
        stop.set()
        thread.join()
        preview.finish(True)


def live(page):
    page.wait_for_selector("body[data-state=live]:not(.old) .card[data-state=ok]")


def screenshot(page, name, tmp_path):
    """RGB (H, W, 3)."""
    folder = Path(os.environ.get("EDGE_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.png"
    page.screenshot(path=path)
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def near(pixels, colour):
    return int((np.abs(pixels.astype(int) - colour).max(axis=2) < 30).sum())


@pytest.mark.parametrize(("name", "size", "scheme"), [("preview", DESKTOP, "dark"), ("preview-phone", PHONE, "light")])
def test_the_live_page(open_page, loop, tmp_path, name, size, scheme):
    preview = loop()
    page = open_page(preview.url, size, scheme)
    live(page)
    page.wait_for_timeout(SECONDS * 1000)
    live(page)
    assert page.inner_text("#pill-text") == "Live"
    assert page.inner_text("#count") == "1"
    assert float(page.inner_text("#fps")) > 1
    assert page.inner_text(".card .label").lower() == "happy"
    assert page.inner_text(".card .state") == "confident"
    assert page.inner_text(".card .row.best .name") == "happy"
    assert page.locator(".card .row").count() == 7
    assert page.locator("#stages .row").count() == 6
    assert page.locator("#nobody").is_hidden()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing to scroll sideways"
    # The picture is drawn, and the box lies on a canvas of its own.
    count = "(id) => { const c = document.getElementById(id); const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; let n = 0; for (let i = 3; i < d.length; i += 4) n += d[i] > 0; return n / (c.width * c.height); }"  # noqa: E501
    assert page.evaluate(count, "picture") > 0.9
    assert 0.001 < page.evaluate(count, "overlay") < 0.3
    seen = screenshot(page, name, tmp_path)
    assert seen.shape[:2] == size[::-1]
    assert near(seen, GREEN) > 300
    assert page.evaluate("window.shifts") < 0.1, "the layout stays where it is"


def result(number, *faces):
    return Result(number, time.monotonic_ns(), faces, {"total": 5.0})


def face(number, state=FaceState.OK):
    return Face(number, Box(20 + 40 * number, 20, 30, 30), "happy", 0.6, {"happy": 0.6, "sad": 0.4}, state)


def write(preview, number, *faces):
    now = time.monotonic_ns()
    preview.write(Frame(number, now, np.full((90, 160, 3), 120, np.uint8), now), result(number, *faces))


@pytest.fixture
def writer():
    """Writes results of these faces until told otherwise: ``faces = writer(preview)``; ``faces[:] = [...]``."""
    threads = []

    def start(preview):
        faces, stop = [], threading.Event()

        def run():
            number = 0
            while not stop.wait(0.04):
                write(preview, number, *faces)
                number += 1

        thread = threading.Thread(target=run)
        thread.start()
        threads.append((stop, thread))
        return faces, lambda: (stop.set(), thread.join())

    yield start
    for stop, thread in threads:
        stop.set()
        thread.join()


def test_it_says_what_it_does_not_know(open_page, writer):
    preview = Preview("127.0.0.1:0")
    try:
        page = open_page(preview.url)
        page.wait_for_selector("body[data-state=waiting]")
        assert page.inner_text("#nobody-text") == "Waiting for the first result"
        faces, stop = writer(preview)
        page.wait_for_selector("body[data-state=live]")
        sync_api.expect(page.locator("#nobody-text")).to_have_text("Nobody in view")
        faces[:] = [face(1), face(2, FaceState.UNCERTAIN), face(3, FaceState.WARMING_UP)]
        page.wait_for_selector(".card:nth-child(3)")
        sync_api.expect(page.locator("#nobody")).to_be_hidden()
        assert page.locator(".card .state").all_inner_texts() == [
            "confident",
            "not sure: no statement",
            "just arrived, may still move",
        ]
        assert [each.lower() for each in page.locator(".card .label").all_inner_texts()] == [
            "happy",
            "happy?",
            "happy?",
        ]
        # One leaves: it is said so, and then its card goes.
        faces[:] = [face(2), face(3)]
        page.wait_for_selector(".card[data-state=gone]")
        assert page.inner_text(".card[data-state=gone] .state") == "left the view"
        sync_api.expect(page.locator(".card")).to_have_count(2)
        # No more results: what is there is old, and nothing claims to be now.
        stop()
        page.wait_for_selector("body.old[data-state=stale]", timeout=5000)
        assert "No new result for" in page.inner_text("#pill-text")
        assert "What you see is" in page.inner_text("#note")
        assert set(page.locator(".card .state").all_inner_texts()) == {"old"}
        assert page.inner_text("#count") == page.inner_text("#fps") == "\u2013"
        # Who comes now is never shown the old result as if it were new.
        late = open_page(preview.url)
        late.wait_for_selector("body[data-state=stale]")
    finally:
        preview.finish(True)
    page.wait_for_selector("body[data-state=ended]")
    assert page.inner_text("#pill-text") == "Ended: the source has ended"


def test_it_never_shows_a_late_joiner_an_old_result_as_new(open_page):
    preview = Preview("127.0.0.1:0")
    try:
        write(preview, 0, face(1))
        time.sleep(1.5)
        page = open_page("about:blank")
        page.add_init_script(
            "window.states = new Set(); document.addEventListener('DOMContentLoaded', () => new MutationObserver(() => "
            "window.states.add(document.body.dataset.state)).observe(document.body, {attributes: true}));"
        )
        page.goto(preview.url)
        page.wait_for_selector("body[data-state=stale]")
        page.wait_for_timeout(500)
        assert set(page.evaluate("[...window.states]")) <= {"connecting", "waiting", "stale"}
    finally:
        preview.finish(True)


def test_it_comes_back_by_itself(open_page, writer):
    preview = Preview("127.0.0.1:0")
    address = preview.url.split("/")[2]
    page = None
    try:
        faces, stop = writer(preview)
        faces[:] = [face(1)]
        page = open_page(preview.url)
        live(page)
        stop()
    finally:
        preview.finish(False)
    page.wait_for_selector("body.old[data-state=ended]")
    assert page.inner_text("#pill-text") == "Ended: the run was stopped"
    again = Preview(address)
    try:
        faces, stop = writer(again)
        faces[:] = [face(1)]
        live(page)
        stop()
    finally:
        again.finish(True)


def test_privacy_mode_shows_boxes_and_no_picture(open_page, loop, tmp_path):
    preview = loop(private=True)
    page = open_page("about:blank")
    asked = []
    page.on("response", lambda response: asked.append((response.url, response.headers.get("content-type", ""))))
    page.goto(preview.url)
    live(page)
    page.wait_for_timeout(1500)
    live(page)
    assert page.locator("#privacy").inner_text() == "Privacy mode: no picture leaves the robot"
    assert not [url for url, kind in asked if "/picture" in url or kind.startswith(("image/jpeg", "image/png"))]
    shown = page.locator("#stage").screenshot(path=tmp_path / "stage.png")
    assert shown
    assert near(cv2.cvtColor(cv2.imread(str(tmp_path / "stage.png")), cv2.COLOR_BGR2RGB), GREEN) > 200


def test_a_token_opens_the_page_and_leaves_the_address_bar(open_page, loop, monkeypatch):
    monkeypatch.setenv(TOKEN_VARIABLE, "a-token-of-good-length")
    preview = loop()
    page = open_page(preview.url)
    live(page)
    assert page.url == preview.url.split("?")[0]
    assert page.evaluate("document.cookie") == "", "no script may read it"
