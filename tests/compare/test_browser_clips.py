"""Two clips in a real browser: drawn, replayed and paused by keys, and still where a rater's system asks for that.

Where chromium, its driver or the extra are missing, the test is skipped with the reason.
"""

import json

import pytest

pytest.importorskip("starlette", reason="the extra 'compare' is not installed: pip install starlette uvicorn")
pytest.importorskip("selenium", reason="selenium is not installed: pip install selenium")

from browsers import needs_browser, open_browser
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from rlhf_jax.compare import Item, Settings, Store
from rlhf_jax.compare.serve import Server

pytestmark = needs_browser

LOOK = """
const groups = [...document.querySelectorAll(".clip svg g:last-child")], named = (id) => document.getElementById(id);
return {moving: groups.map((group) => [...group.children].map((shape) => shape.outerHTML)),
        at: Number(named("seek").value), play: named("play").textContent.trim(),
        hidden: named("clip-controls").hidden, state: document.body.dataset.state};
"""


def clip(at):
    """A ball that moves to the right, for three seconds."""
    frames = [[["circle", at + i, 5, 3, "main"]] for i in range(36)]
    whole = {"width": 60, "height": 20, "fps": 12, "still": [["line", 0, 9, 60, 9, 1, "soft"]], "frames": frames}
    return json.dumps({**whole, "segment": f"from {at}"})


@pytest.fixture
def page(tmp_path):
    """The address of a page with a pair of clips and then a pair without, and a browser that is asked for it."""
    items = [
        Item("Which moves further?", "from 4", "from 9", clip_a=clip(4), clip_b=clip(9)),
        Item("Hi.", "No.", "Yes."),
    ]
    store = Store.create(tmp_path / "said.sqlite", items, [], Settings(hidden=0.0, calibrate=0))
    settings = Settings(hidden=0.0, calibrate=0, tokens={"ann": store.add_rater("ann")}, port=0)
    server, driver = Server(store, settings), open_browser(tmp_path / "profile")
    try:
        yield driver, server.links["ann"]
    finally:
        driver.quit()
        server.stop()


def test_clips_play_and_obey_keys(page):
    driver, link = page

    def until(true):
        return WebDriverWait(driver, 60, 0.02).until(
            lambda _: (seen := driver.execute_script(LOOK)) and true(seen) and seen
        )

    def press(key):
        webdriver.ActionChains(driver).send_keys(key).perform()

    driver.get(link)
    until(lambda seen: seen["state"] == "ready")
    if driver.execute_script(LOOK)["hidden"]:  # the pair without clips came first: it has no controls
        press("t")
    playing = until(lambda seen: seen["state"] == "ready" and not seen["hidden"] and seen["at"] > 100)
    assert playing["play"] == "p Pause"
    assert [len(shapes) for shapes in playing["moving"]] == [1, 1]
    assert 'class="shape-main"' in playing["moving"][0][0]
    press("p")
    held = until(lambda seen: seen["play"] == "p Play")
    assert driver.execute_script(LOOK) == held  # nothing moves
    press("r")
    until(lambda seen: seen["play"] == "p Pause")
    press("p")
    driver.execute_script(
        "const s = document.getElementById('seek'); s.value = 1000; s.dispatchEvent(new Event('input'))"
    )
    (left,), (right,) = driver.execute_script(LOOK)["moving"]
    assert {'cx="39"' in left, 'cx="44"' in left} == {True, False}  # the last frames, 4 + 35 and 9 + 35
    assert ('cx="39"' in left) != ('cx="39"' in right)
    label = driver.find_element(By.CSS_SELECTOR, "#left-clip svg").get_attribute("aria-label")
    assert label == "Left: a clip of 36 frames; the text below says what it shows"
    driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-reduced-motion", "value": "reduce"}]}
    )
    driver.refresh()
    still = until(lambda seen: seen["state"] == "ready")
    assert (still["play"], still["at"]) == ("p Play", 0)
    press("1")
    until(lambda seen: seen["state"] == "end" or seen["hidden"])
    assert not driver.get_log("browser")
