"""The page without a browser: who gets it, what it shows, and what becomes of an answer that is sent twice."""

import json

import pytest

pytest.importorskip("starlette", reason="the extra 'compare' is not installed: pip install starlette uvicorn")

from asgi import HOST, OURS, Rater, request

from rlhf_jax.compare import Item, Session, Settings, Store
from rlhf_jax.compare.app import make_app, read_answer
from rlhf_jax.compare.gate import REFUSED, Access, seat
from rlhf_jax.data.rows import Message

EVIL = "<img src=x onerror=alert(1)><script>alert(2)</script>"
ITEMS = [Item(f"Prompt {i}", f"good {i}", f"bad {i}") for i in range(6)]
ROUTES = ["/", "/r", "/r/", "/p/", "/f/", "/state", "/answer", "/undo", "/page.js", "/style.css", "/static/page.js"]
ROUTES += [
    "/favicon.ico",
    "/r/../state",
    "//state",
    "/templates/page.html",
    "/p/x/state",
    "/f/x/state",
    "/docs",
    "/health",
]
FRAMES = Access(frames=("https://colab.research.google.com",), proxies=(".googleusercontent.com",))


def make(tmp_path, items=ITEMS, golden=(), access=None, **settings):
    settings = Settings(**{"hidden": 0.0, **settings})
    store = Store.create(tmp_path / "people.sqlite", items, golden, settings)
    joined = []
    app = make_app(
        Session(store, settings), store.rater_of, rubric=settings.rubric, access=access, joined=joined.append
    )
    return app, store, joined


@pytest.fixture
def page(tmp_path):
    """An application, its store, and a rater."""
    app, store, _ = make(tmp_path)
    return app, store, Rater(app, store.add_rater("ann"))


def said(store):
    return [(answer.item, answer.verdict, answer.strength) for answer in store.labels()]


def test_nothing_is_served_without_a_token(page):
    """Whatever is asked for, in whatever way: the same sentence, so that nobody learns which routes there are."""
    app, store, ann = page
    wrong = [{}, {"cookie": "rlhf_rater=guess"}, {"cookie": "rlhf_rater="}, {"authorization": "Bearer guess"}]
    for headers in wrong:
        for path in [*ROUTES, ann.home, f"{ann.home}state", "/r/guess", "/f/guess/", f"/p/{seat('guess')}/state"]:
            for method in ("GET", "HEAD", "POST", "PUT", "OPTIONS"):
                reply = request(app, method, path, headers={**OURS, **headers})
                assert (reply.status, reply.text) == (403, REFUSED + "\n"), (method, path, headers)
    assert said(store) == []


def test_a_cookie_opens_its_own_page_alone(page):
    """Two raters may use one browser: the cookie of one is not the other's, and a token is in the link's path alone."""
    app, store, ann = page
    bo = Rater(app, store.add_rater("bo"))
    assert ann.get().status == bo.get().status == 200
    assert request(app, "GET", f"{bo.home}state", headers=ann.cookie).status == 403
    token = ann.cookie["cookie"].partition("=")[2]
    for path in (f"/p/{token}/", f"/r/{token}/state", f"/f/{token}/", f"/{token}", f"/state?token={token}"):
        assert request(app, "GET", path).status == 403
    assert token not in ann.get().text + ann.get("state").text + ann.home


def test_the_link_leaves_a_strict_cookie_and_goes_on(page):
    _, _, ann = page
    assert ann.link.status == 200
    assert {"HttpOnly", "SameSite=strict", f"Path={ann.home}"} <= set(ann.about)
    assert f'http-equiv="refresh" content="0; url={ann.home}"' in ann.link.text


def test_cookies_of_other_programs_are_no_hindrance(page):
    """Cookies know no ports, so those of everything else on this machine come along, in whatever form."""
    app, _, ann = page
    others = {"cookie": f'username="2|1:0|10:17"; a b={{"x": 1, "y"}}; {ann.cookie["cookie"]}; =;;\xff'}
    assert request(app, "GET", f"{ann.home}state", headers=others).status == 200


def test_a_token_that_was_replaced_opens_nothing(page):
    _, store, ann = page
    store.new_token("ann")
    assert ann.get().status == 403
    assert ann.post("answer", {}).status == 403


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:80",
        "127.0.0.1.evil.example",
        "10.0.0.7:80",
        "127.0.0.1:80; evil.example",
        "",
        None,
    ],
)
def test_a_foreign_name_that_leads_to_the_loopback_gets_nothing(page, host):
    """DNS rebinding: the browser thinks that it talks to the foreign name, and so would send that page's requests."""
    app, _, ann = page
    reply = request(app, "GET", f"{ann.home}state", headers=ann.cookie, host=host)
    assert reply.status == 403
    assert "shown" not in reply.text


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1:9999", "[::1]:8000"])
def test_names_of_the_loopback_do_at_any_port_as_a_tunnel_has_its_own(page, host):
    app, _, ann = page
    assert request(app, "GET", f"{ann.home}state", headers=ann.cookie, host=host).status == 200


def test_where_another_address_was_asked_for_any_name_does_with_a_token(tmp_path):
    app, store, _ = make(tmp_path, access=Access(loopback=False))
    token = store.add_rater("ann")
    assert request(app, "GET", f"/r/{token}", host="lab.example:8000").status == 200
    assert request(app, "GET", "/", host="lab.example:8000").status == 403


@pytest.mark.parametrize(
    "changed",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://["},
        {"origin": ""},
        {"origin": f"http://{HOST}.evil.example"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"content_type": "text/plain"},
        {"content_type": "application/x-www-form-urlencoded"},
    ],
)
def test_only_the_page_itself_sends_answers(page, changed):
    _, store, ann = page
    answer = {"id": ann.shown()["id"], "verdict": "left", "strength": 2, "seconds": 1}
    assert ann.post("answer", answer, **changed).status == 403
    assert said(store) == []


def test_every_answer_has_the_headers_that_keep_it_alone(page):
    app, _, ann = page
    for reply in (ann.get(), ann.get("state"), ann.link, request(app, "GET", "/"), ann.get("nothing")):
        policy = reply.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'nonce-")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert reply.headers["x-frame-options"] == "DENY"
        assert reply.headers["cache-control"] == "no-store"
        assert reply.headers["referrer-policy"] == "no-referrer"
    nonces = {ann.get().headers["content-security-policy"] for _ in range(3)}
    assert len(nonces) == 3


def test_the_page_needs_nothing_from_elsewhere(page):
    _, _, ann = page
    text = ann.get().text
    assert not [word for word in ("http:", "https:", "src=", "{{") if word in text]
    nonce = ann.get().headers["content-security-policy"].partition("nonce-")[2].partition("'")[0]
    assert len(nonce) >= 20
    assert text.count("nonce=") == text.count("<script") + text.count("<style") == 2


def test_a_frame_is_a_page_without_cookies_where_frames_are_allowed(tmp_path):
    app, store, _ = make(tmp_path, access=FRAMES)
    token = store.add_rater("ann")
    for host in (HOST, "abc-8000-colab.googleusercontent.com"):
        reply = request(app, "GET", f"/f/{token}/", host=host)
        assert reply.status == 200
        assert "frame-ancestors https://colab.research.google.com" in reply.headers["content-security-policy"]
        assert "x-frame-options" not in reply.headers
    shown = request(app, "GET", f"/f/{token}/state").json["shown"]
    body = json.dumps({"id": shown["id"], "verdict": "tie", "strength": 1, "seconds": 1}).encode()
    proxied = {**OURS, "origin": "https://abc-8000-colab.googleusercontent.com"}
    assert request(app, "POST", f"/f/{token}/answer", headers=proxied, body=body).status == 200
    assert [verdict for _, verdict, _ in said(store)] == ["tie"]
    assert request(app, "GET", f"/f/{token}/", host="evil.example").status == 403


def test_html_is_data_and_the_guideline_is_escaped(tmp_path):
    """Responses reach the page as JSON, never as a part of its HTML; what is written into the HTML is escaped."""
    app, store, _ = make(tmp_path, [Item(EVIL, EVIL, "short")], rubric=f"# Look **here** {EVIL}\n- {EVIL}\n\n{EVIL}")
    ann = Rater(app, store.add_rater(EVIL))
    text = ann.get().text
    assert EVIL not in text
    assert text.count("&lt;img src=x onerror=alert(1)&gt;") == 5  # the rater's name twice, and the guideline's three
    assert "Look <strong>here</strong>" in text
    reply = ann.get("state")
    assert reply.headers["content-type"] == "application/json"
    assert EVIL in (reply.json["shown"]["left"], reply.json["shown"]["right"])
    assert reply.json["shown"]["turns"] == [{"role": "", "text": EVIL}]


def test_a_chat_is_shown_in_turns(tmp_path):
    chat = (
        Message("system", "Be brief."),
        Message("user", "Hi."),
        Message("assistant", "Yes?"),
        Message("user", "2+2?"),
    )
    app, store, _ = make(tmp_path, [Item(chat, "4", "5")])
    assert Rater(app, store.add_rater("ann")).shown()["turns"] == [{"role": m.role, "text": m.content} for m in chat]


def test_an_answer_that_is_sent_twice_counts_once(page):
    """The first one counts, whatever comes after it under the same name: a repeated click, or a repeated request."""
    _, store, ann = page
    shown = ann.shown()
    first = ann.answer("left", shown["id"], strength=3)
    again = ann.answer("right", shown["id"])
    assert first.status == again.status == 200
    assert first.json == again.json
    assert len(said(store)) == first.json["progress"]["done"] == 1
    assert said(store)[0][2] == 3


def test_left_and_right_are_what_was_on_the_page(page):
    _, store, ann = page
    while shown := ann.shown():
        ann.answer("left" if shown["left"].startswith("good") else "right", shown["id"])
    assert [verdict for _, verdict, _ in said(store)] == ["a"] * len(ITEMS)


def test_tie_both_bad_and_skip_are_kept_apart(page):
    _, store, ann = page
    for verdict in ("tie", "both_bad", "skip"):
        assert ann.answer(verdict).status == 200
    assert [verdict for _, verdict, _ in said(store)] == ["tie", "both_bad", "skip"]


def test_undo_brings_the_pair_back_once(page):
    """The request says what the rater has before them, so the same request a second time takes nothing more back."""
    _, store, ann = page
    first = ann.shown()
    ann.answer("left", first["id"])
    ann.answer("left")
    now = ann.shown()["id"]
    undone = ann.post("undo", {"id": now})
    assert undone.json["undone"]
    assert undone.json["progress"]["done"] == 1
    assert not ann.post("undo", {"id": now}).json["undone"]
    assert len(said(store)) == 1
    back = ann.post("undo", {"id": ann.shown()["id"]}).json["shown"]
    assert (back["turns"], back["left"]) == (first["turns"], first["left"])
    assert back["id"] != first["id"]
    assert not ann.post("undo", {"id": back["id"]}).json["undone"]  # nothing is left
    assert said(store) == []


def test_an_answer_to_a_pair_that_was_undone_is_refused_by_name(page):
    _, store, ann = page
    old = ann.shown()["id"]
    ann.answer("left", old)
    ann.post("undo", {"id": ann.shown()["id"]})
    reply = ann.answer("right", old)
    assert (reply.status, "any more" in reply.json["error"]) == (409, True)
    assert ann.answer("right", "nobody's").status == 409
    assert said(store) == []


def test_the_end_is_said_and_can_be_undone(page):
    _, _, ann = page
    for _ in ITEMS:
        last = ann.answer("left").json
    assert last["shown"] is None
    assert last["progress"]["done"] == last["progress"]["total"] == len(ITEMS)
    assert ann.post("undo", {"id": ""}).json["undone"]
    assert ann.shown() is not None


def test_calibration_says_what_is_right_and_why(tmp_path):
    golden = [Item("2+2?", "four", "five", "a", "The guideline puts truth first.")]
    app, store, _ = make(tmp_path, golden=golden, calibrate=1)
    ann, bo = (Rater(app, store.add_rater(name)) for name in ("ann", "bo"))
    for rater, right in ((ann, True), (bo, False)):
        shown = rater.shown()
        assert shown["kind"] == "calibration"
        side = "left" if (shown["left"] == "four") is right else "right"
        reply = rater.answer(side, shown["id"]).json
        assert reply["correct"] is right
        assert "four" in reply["explanation"]
        assert "truth first" in reply["explanation"]
        assert reply["shown"]["kind"] == "item"
    assert ann.answer("left").json["explanation"] == ""


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"", "JSON"),
        (b"[" * 4000, "JSON"),
        (b"[]", "id must be"),
        (b"x" * 5000, "at most 4096 bytes"),
        (b'{"id": "\\ud800", "verdict": "left"}', "id must be"),
        (b'{"id": "k", "verdict": ["left"]}', "verdict must be one of"),
        (b'{"id": "k", "verdict": "left", "strength": true}', "strength must be"),
        (b'{"id": "k", "verdict": "left", "strength": 1, "seconds": NaN}', "seconds must be"),
        (b'{"id": "k", "verdict": "left", "strength": 1, "seconds": -1}', "seconds must be"),
        (b'{"id": "k", "verdict": "left", "strength": 1, "seconds": -%s}' % (b"9" * 400), "seconds must be"),
    ],
)
def test_what_is_no_answer_is_refused_by_name(page, body, complaint):
    _, _, ann = page
    reply = ann.post("answer", body)
    assert reply.status == 400
    assert complaint in reply.json["error"]


def test_a_rater_who_joins_is_said_once(tmp_path):
    app, store, joined = make(tmp_path)
    ann = Rater(app, store.add_rater("ann"))
    for _ in range(3):
        ann.get()
    assert joined == ["ann has joined"]


def test_more_seconds_than_a_float_holds_are_cut_to_a_week():
    answer = {"id": "k", "verdict": "left", "strength": 1}
    assert read_answer({**answer, "seconds": 10**400}).seconds == read_answer({**answer, "seconds": 1e300}).seconds
