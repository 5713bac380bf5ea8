// The preview's page. Results come by WebSocket, one JSON line each; the picture is asked for when it can be shown.
"use strict";

const STRIP_S = 20; // what a strip shows, seconds of the source's time
const STALE_MS = 1000; // with no result for this long, nothing is shown as if it were now
const GONE_MS = 3000; // a face that left keeps its card this long
const KEPT = 90; // results kept to be matched to their pictures
const COLOURS = {
  angry: "#d8453e", anger: "#d8453e", disgust: "#7d9a2c", fear: "#1f9e89", happy: "#e69f00", happiness: "#e69f00",
  sad: "#4a7fe0", sadness: "#4a7fe0", surprise: "#a760d6", neutral: "#8b95a5", contempt: "#b97a56",
};
const SPARE = ["#d8453e", "#e69f00", "#7d9a2c", "#1f9e89", "#4a7fe0", "#a760d6", "#8b95a5", "#b97a56"];
const WORDS = { ok: "confident", warming_up: "just arrived, may still move", uncertain: "not sure: no statement" };
const BOX = { ok: "#3ecf8e", warming_up: "#5aa9ff", uncertain: "#c3c9d2" };

const $ = (id) => document.getElementById(id);
const stage = $("stage"), picture = $("picture"), overlay = $("overlay");
const results = new Map(); // by frame
const cards = new Map(); // by face
let newest = null; // the newest result, and when it came
let newestAt = -Infinity;
let interval = 40; // between results, milliseconds, smoothed
let shown = null; // { bitmap, frame, width, height, at }
let status = null, statusAt = -Infinity;
let admitted = false; // whether this connection's first status has come: until then the newest result may be an old one
let lagMs = 0; // how far this page is behind the newest result, by a slow connection
let link = "connecting"; // connecting | open | lost | ended | refused
let ending = "";
let stagesMs = new Map();
let dirty = true;

// -- results ----------------------------------------------------------------------------------------------------------

function take(result) {
  const now = performance.now();
  if (newest && result.captured_ns < newest.captured_ns) forget(); // another run
  if (newest) interval += 0.1 * (Math.min(2000, now - newestAt) - interval);
  newest = result;
  newestAt = now;
  date();
  results.set(result.frame, result);
  if (results.size > KEPT) results.delete(results.keys().next().value);
  for (const face of result.faces) cardOf(face).take(face, result.captured_ns / 1e9, now);
  for (const [name, spent] of Object.entries(result.timings_ms)) {
    const before = stagesMs.get(name);
    stagesMs.set(name, before === undefined ? spent : before + 0.08 * (spent - before));
  }
  dirty = true;
}

// A page that joins late is given the newest result, which may be old: the server knows since when it is there.
function date() {
  if (!newest || !status || status.captured_ns !== newest.captured_ns) return;
  newestAt = Math.min(newestAt, statusAt - Math.max(0, status.age_ms - status.latency_ms));
}

function forget() {
  results.clear();
  stagesMs.clear();
  for (const card of cards.values()) card.element.remove();
  cards.clear();
  newest = null;
  newestAt = -Infinity;
}

function connect(wait = 400) {
  const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws`);
  socket.onopen = () => { link = "open"; wait = 400; admitted = false; status = null; forget(); askStatus(); };
  socket.onmessage = (message) => take(JSON.parse(message.data));
  socket.onclose = (event) => {
    if (link !== "refused") {
      link = event.code === 1000 ? "ended" : link === "ended" ? "ended" : "lost";
      if (event.code === 1000) ending = event.reason;
    }
    dirty = true;
    setTimeout(connect, wait * (0.8 + 0.4 * Math.random()), Math.min(4000, wait * 1.6));
  };
}

async function askStatus() {
  try {
    const answer = await fetch("status", { cache: "no-store", signal: AbortSignal.timeout(3000) });
    if (answer.status === 401) link = "refused";
    else if (answer.ok) {
      if (link === "refused") link = "lost";
      status = await answer.json();
      statusAt = performance.now();
      admitted = true;
      date();
      const behind = newest && status.captured_ns !== null ? (status.captured_ns - newest.captured_ns) / 1e6 : 0;
      lagMs = behind > 2 * interval && status.alive ? behind : 0;
    }
  } catch { /* the WebSocket tells that the connection is lost */ }
  dirty = true;
}

// -- the picture ------------------------------------------------------------------------------------------------------

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

async function watch() {
  for (;;) {
    // Nobody looks: the robot needn't make pictures.
    if (document.hidden || link !== "open" || !status || !status.picture) { await sleep(200); continue; }
    try {
      const answer = await fetch(`picture?after=${shown ? shown.frame : -1}`, { cache: "no-store", signal: AbortSignal.timeout(9000) });
      if (answer.status === 200) {
        const [width, height] = answer.headers.get("x-frame-size").split("x").map(Number);
        const bitmap = await createImageBitmap(await answer.blob());
        if (shown) shown.bitmap.close();
        shown = { bitmap, frame: Number(answer.headers.get("x-frame")), width, height, at: performance.now() };
        dirty = true;
      } else if (answer.status !== 204) await sleep(1000);
    } catch { await sleep(500); }
  }
}

// -- drawing ----------------------------------------------------------------------------------------------------------

function fit(canvas) {
  const scale = window.devicePixelRatio || 1;
  const width = Math.round(canvas.clientWidth * scale), height = Math.round(canvas.clientHeight * scale);
  if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, canvas.clientWidth, canvas.clientHeight);
  return context;
}

function drawStage(isOld, isPrivate) {
  const wide = stage.clientWidth, tall = stage.clientHeight;
  const frame = shown && !isPrivate ? shown : status && status.width ? status : null;
  const below = fit(picture), above = fit(overlay);
  if (!frame) return;
  const scale = Math.min(wide / frame.width, tall / frame.height);
  const left = (wide - frame.width * scale) / 2, top = (tall - frame.height * scale) / 2;
  if (isPrivate) drawGround(below, left, top, frame.width * scale, frame.height * scale);
  else if (shown) below.drawImage(shown.bitmap, left, top, frame.width * scale, frame.height * scale);
  // An old box would claim that somebody is there.
  if (isOld || !newest) return;
  const result = isPrivate || !shown ? newest : results.get(shown.frame) || newest;
  const taken = [];
  for (const face of result.faces) {
    const [x, y, width, height] = face.box;
    const place = { x: left + x * scale, y: top + y * scale, width: width * scale, height: height * scale };
    if (isPrivate) drawSilhouette(above, place);
    drawBox(above, face, place, wide, tall, taken);
  }
}

function drawGround(context, left, top, width, height) {
  const style = getComputedStyle(document.documentElement);
  context.strokeStyle = style.getPropertyValue("--stage-line");
  context.lineWidth = 1;
  context.beginPath();
  for (let part = 0; part <= 16; part++) {
    const x = Math.round(left + (width * part) / 16) + 0.5;
    context.moveTo(x, top);
    context.lineTo(x, top + height);
  }
  for (let part = 0; part <= 9; part++) {
    const y = Math.round(top + (height * part) / 9) + 0.5;
    context.moveTo(left, y);
    context.lineTo(left + width, y);
  }
  context.stroke();
}

function drawSilhouette(context, { x, y, width, height }) {
  const middle = x + width / 2;
  context.fillStyle = "#7d8796";
  context.globalAlpha = 0.45;
  context.beginPath();
  context.ellipse(middle, y + height * 0.48, width * 0.38, height * 0.5, 0, 0, 2 * Math.PI);
  context.fill();
  context.beginPath();
  context.ellipse(middle, y + height * 1.68, width * 0.9, height * 0.64, 0, Math.PI, 2 * Math.PI);
  context.fill();
  context.globalAlpha = 1;
}

function drawBox(context, face, { x, y, width, height }, wide, tall, taken) {
  const colour = BOX[face.state] || BOX.uncertain;
  context.lineWidth = 2.5;
  context.strokeStyle = colour;
  context.setLineDash(face.state === "ok" ? [] : [8, 6]);
  context.beginPath();
  context.roundRect(x, y, width, height, Math.min(14, width / 6));
  context.shadowColor = "#0009";
  context.shadowBlur = 4;
  context.stroke();
  context.shadowBlur = 0;
  context.setLineDash([]);
  const words = face.state === "ok" ? `${face.id}  ${face.label}  ${percent(face.confidence)}` : `${face.id}  ${face.label}?`;
  context.font = "600 14px system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif";
  const room = context.measureText(words).width + 16;
  const left = Math.max(2, Math.min(x, wide - room - 2));
  // Above the box or below it, wherever no other face's words are; inside it where neither is free.
  const free = (top) => top >= 2 && top <= tall - 26
    && !taken.some((other) => left < other.left + other.room && other.left < left + room && Math.abs(top - other.top) < 25);
  const top = [y - 28, y + height + 4, y + 4].find(free) ?? Math.max(2, Math.min(tall - 26, y + 4));
  taken.push({ left, room, top });
  context.fillStyle = colour;
  context.beginPath();
  context.roundRect(left, top, room, 24, 7);
  context.fill();
  context.fillStyle = "#0b0d10";
  context.textBaseline = "middle";
  context.fillText(words, left + 8, top + 12.5);
}

// -- cards ------------------------------------------------------------------------------------------------------------

const percent = (value) => `${Math.round(value * 100)}%`;
const colourOf = (label, number) => COLOURS[label] || SPARE[number % SPARE.length];

function make(kind, name, parent, words) {
  const element = document.createElement(kind);
  if (name) element.className = name;
  if (words !== undefined) element.textContent = words;
  parent.append(element);
  return element;
}

function say(element, words) {
  if (element.textContent !== words) element.textContent = words;
}

function cardOf(face) {
  if (!cards.has(face.id)) cards.set(face.id, new Card(face));
  return cards.get(face.id);
}

class Card {
  constructor(face) {
    this.id = face.id;
    this.labels = Object.keys(face.probabilities);
    this.history = []; // [time in s, probabilities in the order of labels]
    this.element = document.createElement("article");
    this.element.className = "panel card";
    this.element.dataset.id = face.id;
    const head = make("div", "head", this.element);
    make("span", "chip", head, `Face ${face.id}`);
    this.state = make("span", "state", head);
    const headline = make("div", "headline", this.element);
    this.label = make("span", "label", headline);
    this.confidence = make("span", "confidence", headline);
    const bars = make("div", "bars", this.element);
    this.rows = this.labels.map((label, number) => {
      const row = make("div", "row", bars);
      make("span", "swatch", row).style.background = colourOf(label, number);
      make("span", "name", row, label);
      const fill = make("i", "", make("span", "track", row));
      fill.style.background = colourOf(label, number);
      return { row, fill, value: make("span", "value", row) };
    });
    this.strip = make("canvas", "strip", this.element);
    this.strip.setAttribute("role", "img");
    const axis = make("div", "axis", this.element);
    make("span", "", axis, `${STRIP_S} s ago`);
    make("span", "", axis, "now");
  }

  take(face, time, now) {
    this.face = face;
    this.seenAt = now;
    const last = this.history[this.history.length - 1];
    if (!last || time - last[0] >= 0.04) this.history.push([time, this.labels.map((label) => face.probabilities[label])]);
    while (this.history.length && this.history[0][0] < time - STRIP_S - 1) this.history.shift();
  }

  show(time, inView, isOld) {
    const face = this.face;
    if (!this.element.isConnected) {
      const after = [...$("cards").children].find((other) => Number(other.dataset.id) > this.id);
      $("cards").insertBefore(this.element, after || null);
    }
    this.element.dataset.state = inView || isOld ? face.state : "gone";
    say(this.state, isOld ? "old" : inView ? WORDS[face.state] || face.state : "left the view");
    say(this.label, face.state === "ok" ? face.label : `${face.label}?`);
    say(this.confidence, percent(face.confidence));
    this.rows.forEach(({ row, fill, value }, number) => {
      const label = this.labels[number], probability = face.probabilities[label];
      row.classList.toggle("best", label === face.label);
      fill.style.transform = `scaleX(${probability})`;
      say(value, percent(probability));
    });
    this.drawStrip(time);
    this.strip.setAttribute("aria-label", `Probabilities of the last ${STRIP_S} seconds; now mostly ${face.label}`);
  }

  drawStrip(now) {
    const context = fit(this.strip), wide = this.strip.clientWidth, tall = this.strip.clientHeight;
    const across = (time) => wide - ((now - time) / STRIP_S) * wide;
    // Where nothing was seen for a while there is a gap, not a guess.
    const runs = [];
    for (const point of this.history) {
      const run = runs[runs.length - 1];
      if (run && point[0] - run[run.length - 1][0] < 0.5) run.push(point);
      else runs.push([point]);
    }
    for (const run of runs) {
      const floor = run.map(() => 0);
      this.labels.forEach((label, number) => {
        context.fillStyle = colourOf(label, number);
        context.beginPath();
        run.forEach(([time], index) => context.lineTo(across(time), tall * (1 - floor[index])));
        for (let index = run.length - 1; index >= 0; index--) {
          floor[index] += run[index][1][number];
          context.lineTo(across(run[index][0]), tall * (1 - floor[index]));
        }
        context.fill();
      });
    }
  }
}

// -- the rest of the page ---------------------------------------------------------------------------------------------

const stageRows = new Map();

function showStages() {
  const most = Math.max(1, ...stagesMs.values());
  for (const [name, spent] of stagesMs) {
    if (!stageRows.has(name)) {
      const row = make("div", name === "total" ? "row total" : "row", $("stages"));
      make("span", "name", row, name);
      stageRows.set(name, { row, fill: make("i", "", make("span", "track", row)), value: make("span", "value", row) });
    }
    const { fill, value } = stageRows.get(name);
    fill.style.transform = `scaleX(${Math.min(1, spent / most)})`;
    say(value, spent < 10 ? spent.toFixed(2) : spent.toFixed(1));
  }
}

function duration(ms) {
  if (!Number.isFinite(ms)) return "–";
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
}

let spoken = "", spokenAt = -Infinity;

function speak(words, now) {
  // A screen reader is told of changes, and not too often.
  if (words === spoken || now - spokenAt < 2500) return;
  spoken = words;
  spokenAt = now;
  $("spoken").textContent = words;
}

function show() {
  const now = performance.now();
  const silence = now - newestAt;
  const isPrivate = Boolean(status && !status.picture);
  const tooOld = Math.max(STALE_MS, 3 * interval);
  const isOld = link !== "open" || !admitted || (newest !== null && (silence > tooOld || lagMs > tooOld));
  const pictureAge = shown && !isPrivate ? now - shown.at : 0;

  let state = "live", words = "Live", note = "";
  if (link === "refused") [state, words] = ["refused", "Not admitted: open the link that edge run printed"];
  else if (link === "connecting" || (link === "open" && !admitted)) [state, words] = ["connecting", "Connecting"];
  else if (link === "ended") [state, words] = ["ended", `Ended: ${ending || "the run is over"}`];
  else if (link === "lost") [state, words] = ["lost", "Connection lost, trying again"];
  else if (status.trouble) [state, words, note] = ["stale", "Trouble", `${status.trouble}. `];
  else if (!newest) [state, words] = ["waiting", "Waiting for the first result"];
  else if (silence > tooOld) [state, words] = ["stale", `No new result for ${duration(silence)}`];
  else if (isOld) [state, words] = ["stale", "Slow connection"];
  if (state !== "live") {
    if (!note && state !== "stale") note = newest ? `${words}. ` : words;
    if (newest) note += `What you see is ${duration(silence + lagMs)} old.`;
  }
  else if (pictureAge > 1500) note = `The picture is ${duration(pictureAge)} old; the results are not.`;

  document.body.dataset.state = state;
  document.body.classList.toggle("old", isOld);
  say($("pill-text"), words);
  $("note").hidden = !note;
  say($("note"), note);
  $("privacy").hidden = !isPrivate || Boolean(note);

  const known = link === "open" && status;
  say($("fps"), known && !isOld ? status.fps.toFixed(1) : "–");
  say($("age"), newest ? duration(silence + lagMs + (status ? status.latency_ms : 0)) : "–");
  say($("dropped"), known && status.counters.dropped !== undefined ? String(status.counters.dropped) : "–");
  const here = newest && !isOld ? newest.faces.length : null;
  say($("count"), here === null ? "–" : String(here));
  const extra = [];
  if (known) {
    extra.push(`frames ${status.frames}`, `frame to result ${duration(status.latency_ms)}`);
    for (const [name, count] of Object.entries(status.counters)) if (name !== "dropped") extra.push(`${name} ${count}`);
    if (status.lost) extra.push(`messages lost by slow clients ${status.lost}`);
  }
  say($("extra"), extra.join("  ·  "));

  const inView = new Set(here ? newest.faces.map((face) => face.id) : []);
  for (const card of [...cards.values()]) {
    if (!inView.has(card.id) && !isOld && now - card.seenAt > GONE_MS) {
      card.element.remove();
      cards.delete(card.id);
    } else card.show(newest ? newest.captured_ns / 1e9 : 0, inView.has(card.id), isOld);
  }
  $("nobody").hidden = cards.size > 0;
  say($("nobody-text"), here === 0 ? "Nobody in view" : newest ? "Nobody was in view" : words);
  speak(here === null ? words : here ? newest.faces.map((face) => `Face ${face.id}: ${face.state === "ok" ? face.label : "not sure"}`).join(", ") : "Nobody in view", now);
  showStages();
  drawStage(isOld, isPrivate);
}

let shownAt = 0;

function tick(now) {
  // At most 30 times a second with news, four times without: ages go on counting.
  if (now - shownAt > (dirty ? 32 : 250)) {
    dirty = false;
    shownAt = now;
    show();
  }
  requestAnimationFrame(tick);
}

connect();
askStatus();
setInterval(askStatus, 1000);
watch();
requestAnimationFrame(tick);
