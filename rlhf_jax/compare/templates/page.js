"use strict";
// Texts of strangers go into the page as text alone: nothing here writes HTML, and the policy of the page refuses it.
(() => {
  const $ = (id) => document.getElementById(id);
{% include "clips.js" %}
  const body = document.body;
  const kept = `rlhf-compare ${location.pathname}`; // an answer on its way, so that a reload does not lose it
  const REST = 250; // milliseconds before a new pair takes an answer: a double click is one answer
  const ENOUGH = 5; // answers before a rate is worth saying
  const WAITS = [500, 1000, 2000, 3000];
  // Characters that nobody sees and that change what is seen: controls, directions, blanks of no width, tags.
  const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]|[\u{e0000}-\u{e007f}]/gu;

  let shown = null; // the pair that is before the rater
  let next = null; // the state that follows the feedback after a pair of calibration
  let looked = 0; // milliseconds for which the pair was seen, but for the present look
  let since = performance.now();
  let timer = 0;
  let wake = () => {};

  const is = (state) => body.dataset.state === state;

  function become(state) {
    body.dataset.state = state;
    const open = state === "ready" || state === "resting";
    for (const button of document.querySelectorAll("[data-verdict]")) button.disabled = !open;
    for (const button of document.querySelectorAll("[data-undo]")) button.disabled = !(open || state === "end");
  }

  function notice(text) {
    $("notice").textContent = text;
    $("notice").hidden = !text;
  }

  function write(place, text) {
    place.replaceChildren();
    place.classList.toggle("empty", text === "");
    if (text === "") place.append("(empty)");
    let from = 0;
    for (const found of text.matchAll(HIDDEN)) {
      if (found[0] === "\r" && text[found.index + 1] === "\n") continue;
      const mark = document.createElement("span");
      mark.className = "control";
      mark.textContent = `U+${found[0].codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
      place.append(text.slice(from, found.index), mark);
      from = found.index + found[0].length;
    }
    place.append(text.slice(from));
  }

  function turn({ role, text }) {
    const whole = document.createElement("div");
    whole.className = `turn ${role}`;
    if (role) {
      const name = document.createElement("div");
      name.className = "role";
      name.textContent = { user: "User", assistant: "Assistant", system: "System" }[role] ?? role;
      whole.append(name);
    }
    const said = document.createElement("div");
    said.className = "said";
    said.dir = "auto";
    write(said, text);
    whole.append(said);
    return whole;
  }

  function span(minutes) {
    if (minutes < 1) return "less than a minute left";
    if (minutes < 90) return `about ${Math.round(minutes)} min left`;
    return `about ${(minutes / 60).toFixed(1)} h left`;
  }

  function show_progress({ done, total, per_hour, agreement, alpha }) {
    $("bar").max = Math.max(total, 1);
    $("bar").value = done;
    const parts = [`${done} of ${total}`];
    const measured = per_hour > 0 && done >= ENOUGH;
    if (measured) parts.push(`${Math.round(per_hour)} an hour`);
    if (measured && total > done) parts.push(span((60 * (total - done)) / per_hour));
    if (agreement !== null) parts.push(`you agree with the others on ${Math.round(100 * agreement)}%`);
    if (alpha !== null) parts.push(`all raters: alpha ${alpha.toFixed(2)}`);
    $("progress").textContent = parts.join(" \u00b7 ");
  }

  function only(id) {
    for (const each of ["pair", "end", "closed"]) $(each).hidden = each !== id;
  }

  function show(state) {
    shown = state.shown;
    next = null;
    show_progress(state.progress);
    $("feedback").hidden = true;
    $("controls").hidden = false;
    for (const side of ["left", "right"]) $(`${side}-side`).classList.remove("chosen");
    document.querySelector("[name=strength][value='2']").checked = true;
    if (!shown) {
      clips.stop();
      const { done } = state.progress;
      $("end-text").textContent = `You have been through ${done} ${done === 1 ? "pair" : "pairs"}, and there are no more for you.`;
      only("end");
      become("end");
      $("end-title").focus();
      return;
    }
    only("pair");
    clips.load(shown.clips, ["Left", "Right"]);
    $("calibration").hidden = shown.kind !== "calibration";
    $("turns").replaceChildren(...shown.turns.map(turn));
    for (const side of ["left", "right"]) {
      $(side).dir = "auto";
      write($(side), shown[side]);
    }
    looked = 0;
    since = performance.now();
    become("resting");
    clearTimeout(timer);
    timer = setTimeout(() => is("resting") && become("ready"), REST);
    window.scrollTo(0, 0);
    $("prompt-title").focus({ preventScroll: true });
  }

  function show_feedback(said) {
    next = said;
    show_progress(said.progress);
    $("feedback").classList.toggle("right", said.correct === true);
    $("feedback-title").textContent =
      said.correct === null ? "You have skipped this one." : said.correct ? "That is the known answer." : "The known answer is another one.";
    $("explanation").textContent = said.explanation;
    $("controls").hidden = true;
    $("feedback").hidden = false;
    become("feedback");
    $("feedback-title").focus({ preventScroll: true });
  }

  async function ask(path, sent) {
    const options = { cache: "no-store", credentials: "same-origin" };
    if (sent) Object.assign(options, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(sent) });
    const controller = new AbortController();
    const late = setTimeout(() => controller.abort(), 15000);
    try {
      const response = await fetch(path, { ...options, signal: controller.signal });
      if (response.status === 403) return { closed: true };
      if (response.status >= 500) throw new Error(`status ${response.status}`);
      return { status: response.status, ...(await response.json()) };
    } finally {
      clearTimeout(late);
    }
  }

  // Ask until there is an answer; what was asked may arrive twice, and counts once.
  async function insist(path, sent, words) {
    for (let turn = 0; ; turn++) {
      try {
        const said = await ask(path, sent);
        notice("");
        return said;
      } catch (error) {
        notice(words);
        await new Promise((resolve) => {
          wake = resolve;
          setTimeout(resolve, WAITS[Math.min(turn, WAITS.length - 1)]);
        });
      }
    }
  }

  function close() {
    forget();
    only("closed");
    become("closed");
    $("closed-title").focus();
  }

  function remember(answer) {
    try { sessionStorage.setItem(kept, JSON.stringify(answer)); } catch { /* a browser that keeps nothing */ }
  }

  function forget() {
    try { sessionStorage.removeItem(kept); } catch { /* nothing was kept */ }
  }

  function remembered() {
    try { return JSON.parse(sessionStorage.getItem(kept)); } catch { return null; }
  }

  async function load(words = "") {
    const said = await insist("state", null, "The server does not answer. This page tries again by itself.");
    if (said.closed) return close();
    show(said);
    notice(words);
  }

  async function send(answer) {
    become("sending");
    remember(answer);
    const said = await insist("answer", answer, "The server does not answer. Your answer is kept here and is sent again by itself.");
    forget();
    if (said.closed) return close();
    if (said.status !== 200) return load("This pair was not before you any more, so that answer was not counted.");
    if (said.explanation && shown) return show_feedback(said);
    show(said);
  }

  function choose(verdict) {
    if (!is("ready")) return;
    const strength = Number(document.querySelector("[name=strength]:checked").value);
    const seconds = (looked + (document.hidden ? 0 : performance.now() - since)) / 1000;
    if (verdict === "left" || verdict === "right") $(`${verdict}-side`).classList.add("chosen");
    send({ id: shown.id, verdict, strength, seconds: Math.round(1000 * seconds) / 1000 });
  }

  async function undo() {
    if (!is("ready") && !is("end")) return;
    become("sending");
    const said = await insist("undo", { id: shown ? shown.id : "" }, "The server does not answer. Undo is tried again by itself.");
    if (said.closed) return close();
    if (said.status !== 200) return load();
    show(said);
    notice(said.undone ? "Your last answer is taken back; here is its pair again." : "There is nothing to undo.");
  }

  function go_on() {
    if (is("feedback")) show(next);
  }

  const KEYS = {
    1: () => choose("left"), ArrowLeft: () => choose("left"),
    2: () => choose("right"), ArrowRight: () => choose("right"),
    t: () => choose("tie"), b: () => choose("both_bad"), s: () => choose("skip"), u: undo,
    l: () => strength(1), c: () => strength(2), m: () => strength(3),
    r: () => clips.there() && clips.replay(), p: () => clips.there() && clips.pause(),
    "?": () => $("keys").showModal(),
  };

  function strength(value) {
    if (is("ready") || is("resting")) document.querySelector(`[name=strength][value='${value}']`).checked = true;
  }

  document.addEventListener("keydown", (event) => {
    if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || $("keys").open) return;
    if (event.key === "Enter" && is("feedback") && document.activeElement !== $("continue")) {
      event.preventDefault();
      return go_on();
    }
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (!$("use-keys").checked || !Object.hasOwn(KEYS, key)) return;
    if ((event.target.name === "strength" || event.target.id === "seek") && key.startsWith("Arrow")) return; // theirs
    event.preventDefault();
    KEYS[key]();
  });
  for (const button of document.querySelectorAll("[data-verdict]")) button.addEventListener("click", () => choose(button.dataset.verdict));
  for (const button of document.querySelectorAll("[data-undo]")) button.addEventListener("click", undo);
  $("replay").addEventListener("click", clips.replay);
  $("play").addEventListener("click", clips.pause);
  $("seek").addEventListener("input", () => clips.seek($("seek").value / 1000));
  $("continue").addEventListener("click", go_on);
  $("help").addEventListener("click", () => $("keys").showModal());
  $("close-keys").addEventListener("click", () => $("keys").close());
  window.addEventListener("online", () => wake());
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) looked += performance.now() - since;
    since = performance.now();
  });
  window.addEventListener("beforeunload", (event) => { if (is("sending")) event.preventDefault(); });

  if ($("guideline") && matchMedia("(max-width: 68rem)").matches) $("guideline").open = false;
  const left_over = remembered();
  if (left_over) send(left_over); else load();
})();
