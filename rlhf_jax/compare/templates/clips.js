// Clips beside responses: numbers that the server has checked, drawn as shapes. Nothing of them becomes markup.
const clips = (() => {
  const SVG = $("shapes").namespaceURI;
  const GAP = 700; // milliseconds that the last frame stands before both begin again
  const still_preferred = matchMedia("(prefers-reduced-motion: reduce)");
  let playing = false;
  let players = []; // one a side, drawn in step
  let begun = 0; // when frame 0 was, on the clock of the animation
  let at = 0; // milliseconds into the clips
  let asked = 0;

  function element(name, attributes, parent) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    parent.append(made);
    return made;
  }

  function draw(parent, shapes) {
    parent.replaceChildren();
    for (const [kind, ...rest] of shapes) {
      const colour = `shape-${rest.pop()}`;
      if (kind === "line") {
        const [x1, y1, x2, y2, width] = rest;
        element("line", { x1, y1, x2, y2, "stroke-width": width, class: `stroke ${colour}` }, parent);
      } else if (kind === "circle") {
        const [cx, cy, r] = rest;
        element("circle", { cx, cy, r, class: colour }, parent);
      } else {
        const [x, y, width, height, angle] = rest;
        const box = { x: x - width / 2, y: y - height / 2, width, height, transform: `rotate(${angle} ${x} ${y})` };
        element("rect", { ...box, class: colour }, parent);
      }
    }
  }

  function player(place, clip, name) {
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", `0 0 ${clip.width} ${clip.height}`);
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", `${name}: a clip of ${clip.frames.length} frames; the text below says what it shows`);
    draw(element("g", {}, svg), clip.still);
    const moving = element("g", {}, svg);
    place.replaceChildren(svg);
    place.hidden = false;
    let last = -1;
    return {
      length: (1000 * clip.frames.length) / clip.fps,
      show(time) {
        const now = Math.min(Math.floor((time * clip.fps) / 1000), clip.frames.length - 1);
        if (now !== last) draw(moving, clip.frames[(last = now)]);
      },
    };
  }

  const length = () => Math.max(...players.map((each) => each.length));

  function show(time) {
    at = Math.min(time, length());
    for (const each of players) each.show(at);
    $("seek").value = Math.round((1000 * at) / length());
  }

  function tick(now) {
    asked = 0;
    if (!playing) return;
    const time = now - begun;
    if (time > length() + GAP) begun = now;
    show(Math.max(time > length() + GAP ? 0 : time, 0));
    asked = requestAnimationFrame(tick);
  }

  function run(on) {
    playing = on && players.length > 0;
    $("play").lastChild.textContent = playing ? " Pause" : " Play";
    if (!playing) return;
    begun = performance.now() - (at >= length() ? 0 : at);
    if (!asked) asked = requestAnimationFrame(tick);
  }

  return {
    // Both begin together, unless the rater's system asks for less motion: then they wait for the key or the button.
    load(both, names) {
      const places = [$("left-clip"), $("right-clip")];
      for (const place of places) { place.replaceChildren(); place.hidden = true; }
      players = both.map((clip, i) => player(places[i], clip, names[i]));
      $("clip-controls").hidden = !players.length;
      for (const row of document.querySelectorAll("[data-clips]")) row.hidden = !players.length;
      if (!players.length) return run(false);
      show(0);
      run(!still_preferred.matches);
    },
    there: () => players.length > 0,
    replay() { at = 0; run(true); },
    pause() { run(!playing); },
    seek(share) { run(false); show(share * length()); },
    stop() { run(false); },
  };
})();
