"""Two people in a real browser: they label at the same time, one undoes, the server is killed, and a model learns it.

Debian's chromium and its driver, without a window and without a network. Where they or the extra are missing, the tests
are skipped with the reason.
"""

import dataclasses
import json
import re
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tiny_task

pytest.importorskip("starlette", reason="the extra 'compare' is not installed: pip install starlette uvicorn")
pytest.importorskip("selenium", reason="selenium is not installed: pip install selenium")

from browsers import needs_browser, open_browser
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from rlhf_jax import stages
from rlhf_jax.compare import Store
from rlhf_jax.compare.exporting import export
from rlhf_jax.runs.scorer import Scorer

pytestmark = needs_browser

PAIRS = 20
SERVES = "Ctrl-C ends it"  # the last line before it waits for raters
PATIENCE = 60  # seconds that anything on the page may take on a busy machine
EVIL = "<img src=x onerror=\"window.ran='img'\"><script>window.ran='script'</script> aaaa & <b>bold</b> \u202egnp.exe"
RLHF = [sys.executable, "-c", "from rlhf_jax.cli import main; main()"]
STATE = """
const text = (id) => document.getElementById(id).textContent;
return {state: document.body.dataset.state, notice: text("notice"), prompt: text("turns"), left: text("left"),
        right: text("right"), progress: text("progress"), end: text("end-text"), ran: window.ran ?? null,
        made: document.querySelectorAll("#pair img, #pair script, #pair b").length};
"""


def write_pairs(file):
    """Write pairs about animals, in which now a is better and now b, and one with HTML for a response."""
    rng = np.random.default_rng(3)
    rows = [{"prompt": "The page and", "a": EVIL, "b": "a"}]
    while len(rows) < PAIRS:
        prompt = f"The {tiny_task.ANIMALS[len(rows) % 12]} {('and', 'or')[len(rows) // 12]}"
        a, b = [tiny_task.sentence(rng, words) for words in (tiny_task.GOOD, tiny_task.BAD)][:: (1, -1)[len(rows) % 2]]
        rows.append({"prompt": prompt, "a": a, "b": b})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(folder, port, log):
    """Start the server as a process of its own, by the same command every time, and wait until it serves."""
    words = ["compare", "pairs.jsonl", "--to", "people.sqlite", "--raters", "ann,bo", "--hidden", "0"]
    words += ["--rubric", "rubric.md", "--port", str(port)]
    process = subprocess.Popen([*RLHF, *words], cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    before = said(log).count(SERVES)
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        assert process.poll() is None, said(log)
        if said(log).count(SERVES) > before:
            return process
        time.sleep(0.05)
    raise AssertionError(f"the server does not serve: {said(log)}")


def said(log):
    return Path(log.name).read_text()


class Labelled(NamedTuple):
    """What two people left."""

    store: Store
    people: dict
    links: dict
    before: int  # answers when the server was killed
    consoles: list  # what their browsers complained about


class Person:
    """A rater before a browser of their own, who prefers more of the letter a and says a tie where there is as much."""

    def __init__(self, folder, link, clicks):
        self.driver = open_browser(folder / f"profile-{clicks}")
        self.clicks, self.said, self.evil = clicks, {}, None
        self.stuck = threading.Event()  # an answer is kept by the page, which the server does not take
        self.half = threading.Event()
        self.driver.get(link)

    def until(self, *states):
        """Wait for a state of the page; whoever waits sees what the page says meanwhile."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            seen = self.driver.execute_script(STATE)
            if seen["state"] == "sending" and "Your answer is kept here" in seen["notice"]:
                self.stuck.set()
            if seen["state"] in states:
                return seen
            time.sleep(0.02)
        raise AssertionError(f"the page never came to {states}: {seen}")

    def press(self, verdict):
        if self.clicks:
            if verdict != "tie":
                self.driver.find_element(By.CSS_SELECTOR, "[name=strength][value='3'] + span").click()
            self.driver.find_element(By.CSS_SELECTOR, f"[data-verdict={verdict}]").click()
        else:
            sides = {"left": ("1", Keys.ARROW_LEFT), "right": ("2", Keys.ARROW_RIGHT)}
            key = sides[verdict][len(self.said) % 2] if verdict in sides else {"tie": "t", "undo": "u"}[verdict]
            webdriver.ActionChains(self.driver).send_keys("m", key).perform()

    def work(self):
        """Label everything that comes; the one at the keyboard takes one answer back."""
        undone = False
        while (seen := self.until("ready", "end"))["state"] == "ready":
            assert seen["ran"] is None
            assert seen["made"] == 0
            left, right = (seen[side].count("a") for side in ("left", "right"))
            better = "left" if left > right else "right" if right > left else "tie"
            if EVIL.partition("\u202e")[0] in (seen["left"] + seen["right"]):
                self.evil = seen
            if not self.clicks and len(self.said) == 5 and not undone:
                self.press({"left": "right", "right": "left", "tie": "left"}[better])  # a slip
                self.until("ready")
                self.press("undo")
                back = self.until("ready")
                assert (back["prompt"], back["left"], back["right"]) == (seen["prompt"], seen["left"], seen["right"])
                assert "taken back" in back["notice"]
                undone = True
            self.said[seen["prompt"], frozenset((seen["left"], seen["right"]))] = seen.get(better, "tie")
            self.press(better)
            if len(self.said) >= PAIRS // 2:
                self.half.set()
        self.end = seen


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """Two people who have labelled everything, through a kill of the server; the store is what they left."""
    folder = tmp_path_factory.mktemp("compare")
    write_pairs(folder / "pairs.jsonl")
    (folder / "rubric.md").write_text("# Which is better?\n- the one with **more of the letter a**\n")
    port = free_port()
    people, threads, failed = {}, [], []

    def work(person):
        try:
            person.work()
        except BaseException as error:
            failed.append(error)
            raise

    with (folder / "server.log").open("w") as log:
        process = start(folder, port, log)
        try:
            links = dict(re.findall(r"^(ann|bo): (http://127\.0\.0\.1:\S+)$", said(log), re.MULTILINE))
            assert set(links) == {"ann", "bo"}, said(log)
            for name, link in sorted(links.items()):
                people[name] = Person(folder, link, clicks=name == "bo")
            threads = [threading.Thread(target=work, args=(person,)) for person in people.values()]
            for thread in threads:
                thread.start()
            assert all(person.half.wait(PATIENCE) for person in people.values()), failed
            process.kill()  # -9, while both go on
            process.wait()
            assert all(person.stuck.wait(PATIENCE) for person in people.values()), failed
            store = Store.open(folder / "people.sqlite")
            before = len(store.labels())
            process = start(folder, port, log)
            for thread in threads:
                thread.join(2 * PATIENCE)
            assert not failed
            assert not any(thread.is_alive() for thread in threads)
            consoles = [entry for person in people.values() for entry in person.driver.get_log("browser")]
            yield Labelled(store, people, links, before, consoles)
        finally:
            for person in people.values():
                person.driver.quit()
            process.kill()
            process.wait()


def test_nothing_is_lost_and_nothing_counts_twice(labelled):
    """What the store holds is what the two said, pair by pair; what was under way at the kill came after it."""
    store, people = labelled.store, labelled.people
    assert PAIRS <= labelled.before < 2 * PAIRS
    for name, person in people.items():
        own = [answer for answer in store.labels() if answer.rater == name]
        assert len(own) == len(person.said) == PAIRS
        for answer in own:
            item = store.items[answer.item]
            (said,) = [text for (prompt, _), text in person.said.items() if prompt == item.prompt]
            preferred = {"a": item.a, "b": item.b, "tie": "tie"}[answer.verdict]
            assert said.replace("U+202E", "\u202e") == preferred
            assert answer.strength == (2 if answer.verdict == "tie" and person.clicks else 3)
            assert answer.seconds > 0


def test_the_page_says_how_far_they_are_and_thanks_them(labelled):
    people = labelled.people
    for person in people.values():
        assert person.end["progress"].startswith(f"{PAIRS} of {PAIRS}")
        assert f"You have been through {PAIRS} pairs" in person.end["end"]
    agreed = [person.driver.find_element(By.ID, "progress").text for person in people.values()]
    assert any("agree with the others on 100%" in text and "alpha 1.00" in text for text in agreed), agreed


def test_html_is_shown_as_text_and_nothing_runs(labelled):
    """Every character of it is there to be read, and the one that turns the direction round is shown by its number."""
    consoles = labelled.consoles
    for person in labelled.people.values():
        assert EVIL.replace("\u202e", "U+202E") in (person.evil["left"], person.evil["right"])
        assert person.driver.execute_script("return window.ran ?? null") is None
    # Of what a browser complains about, only the server that was gone is there.
    assert not [entry for entry in consoles if "ERR_" not in entry["message"]], consoles


def test_a_link_on_another_site_opens_the_page_and_leaves_no_token_behind(labelled):
    """Browsers keep a strict cookie back where a click comes from elsewhere, as from mail; this way it is sent."""
    driver = labelled.people["bo"].driver

    class Mail(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(f'<a href="{labelled.links["bo"]}">compare</a>'.encode())

        def log_message(self, *_):
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Mail) as mail:
        threading.Thread(target=mail.serve_forever, daemon=True).start()
        driver.get(f"http://localhost:{mail.server_port}/")  # another site than 127.0.0.1
        driver.find_element(By.TAG_NAME, "a").click()
        labelled.people["bo"].until("end")
        assert "/p/" in driver.current_url
        assert labelled.links["bo"].rpartition("/")[2] not in driver.current_url
        driver.back()
        assert "localhost" in driver.current_url  # the link's own page is in no history
        mail.shutdown()


@pytest.mark.usefixtures("sft_run")
def test_a_reward_model_trained_from_the_export_orders_what_they_preferred(labelled, tmp_path, folder, one_device):
    """Held out are pairs that nobody saw; the raters' rule says which of each is better."""
    assert export(labelled.store.path, tmp_path / "people.jsonl") == 2 * PAIRS
    rows = [row for row in tiny_task.tables()["unseen"] if row["chosen"].count("a") > row["rejected"].count("a")]
    # The pair with HTML is longer than a row of the tiny model.
    settings = {"epochs": 8, "patience": 0, "data": tiny_task.data(tmp_path, "people", on_bad_row="skip")}
    places = {"out": str(tmp_path / "run"), "init": str(folder)}
    config = dataclasses.replace(tiny_task.reward_config(tmp_path, tmp_path, init=folder), **places, **settings)
    stages.reward_model(config, mesh=one_device)
    scorer = Scorer.load(tmp_path / "run")
    prompts = [row["prompt"] for row in rows]
    chosen, rejected = (scorer(prompts, [row[side] for row in rows]) for side in ("chosen", "rejected"))
    assert len(rows) >= 30
    assert np.mean(chosen > rejected) >= 0.8
