// SPDX-License-Identifier: Apache-2.0
"use strict";
const $ = (id) => document.getElementById(id);
const key = new URLSearchParams(location.hash.slice(1)).get("key");
const protocols = key ? ["realtime", "openai-insecure-api-key." + key] : [];
const base = (location.protocol === "https:" ? "wss://" : "ws://") + location.host;

// ---- chat ----
let socket = null, previous = null, current = null, pending = null;
const ideas = ["Why is the sky blue?", "Write a short poem about rivers", "Explain paging to a child"];

function near_end() { const t = $("talk"); return t.scrollHeight - t.scrollTop - t.clientHeight < 60; }
function turn(kind, text) {
  $("empty").hidden = true;
  const div = document.createElement("div");
  div.className = "turn " + kind;
  div.textContent = text;
  $("talk").append(div);
  $("talk").scrollTop = $("talk").scrollHeight;
  return div;
}
function busy(on) { $("send").disabled = on; $("send").hidden = on; $("stop").hidden = !on; }
function finish() {
  if (current) current.div.classList.remove("live");
  current = null;
  busy(false);
}

function connect(then) {
  if (socket && socket.readyState === WebSocket.OPEN) return then();
  socket = new WebSocket(base + "/v1/responses", protocols);
  socket.onopen = then;
  socket.onmessage = (message) => on_event(JSON.parse(message.data));
  socket.onclose = () => {
    if (!$("stop").hidden) turn("note bad", "The connection was closed.");
    finish();
  };
}
function create(input) {
  const event = { type: "response.create", input, temperature: 0.3 };
  if (previous) event.previous_response_id = previous;
  pending = input;
  socket.send(JSON.stringify(event));
}
function on_event(event) {
  if (event.type === "response.created") {
    current = { id: event.response.id, div: turn("assistant live", ""), began: performance.now(), tokens: 0 };
  } else if (event.type === "response.output_text.delta" && current) {
    const follow = near_end();
    if (current.first === undefined) current.first = performance.now();
    current.div.append(event.delta);
    if (follow) $("talk").scrollTop = $("talk").scrollHeight;
  } else if (["response.completed", "response.incomplete", "response.failed"].includes(event.type)) {
    const { usage, error, status, id } = event.response;
    if (status === "completed" || event.response.incomplete_details) previous = id;
    const spent = current && current.first ? (performance.now() - current.first) / 1000 : 0;
    if (usage) {
      const speed = spent > 0.05 && usage.output_tokens > 1 ? ` · ${((usage.output_tokens - 1) / spent).toFixed(0)} tokens/s` : "";
      const forgot = usage.sparse_kv_cache && !usage.sparse_kv_cache.exact ? ` · ${usage.sparse_kv_cache.evicted_tokens} evicted, not exact` : "";
      turn("note", `${usage.output_tokens} tokens${speed} · ${usage.input_tokens_details.cached_tokens} of ` +
        `${usage.input_tokens} prompt tokens from the cache` + forgot + (status === "cancelled" ? " · stopped" : ""));
    }
    if (error) turn("note bad", error.message);
    finish();
  } else if (event.type === "error") {
    if (event.error.code === "previous_response_not_found" && previous) { previous = null; return create(pending); }
    turn("note bad", event.error.message);
    finish();
  }
}
function ask(text) {
  turn("user", text);
  busy(true);
  connect(() => create(text));
}
function fit() { const p = $("prompt"); p.style.height = "auto"; p.style.height = p.scrollHeight + "px"; }
$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("prompt").value.trim();
  if (!text || $("send").disabled) return;
  $("prompt").value = "";
  fit();
  ask(text);
});
$("prompt").addEventListener("input", fit);
$("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); $("form").requestSubmit(); }
});
$("stop").addEventListener("click", () => {
  if (current) socket.send(JSON.stringify({ type: "response.cancel", response_id: current.id }));
});
$("fresh").addEventListener("click", () => {
  if (!$("stop").hidden) return;
  previous = null;
  for (const div of [...document.querySelectorAll(".turn")]) div.remove();
  $("empty").hidden = false;
  $("prompt").focus();
});
for (const idea of ideas) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = idea;
  button.onclick = () => { if (!$("send").disabled) ask(idea); };
  $("ideas").append(button);
}

// ---- the engine, live ----
function context(id) {
  const canvas = $(id), scale = window.devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
  canvas.width = width * scale;
  canvas.height = height * scale;
  const c = canvas.getContext("2d");
  c.scale(scale, scale);
  return [c, width, height];
}
function color(name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); }

function draw_map(blocks) {
  const [c, width, height] = context("map");
  const fits = (side) => Math.floor(width / side) * Math.floor(height / side) >= blocks.total;
  let side = 18;
  while (side > 2 && !fits(side)) side -= side > 6 ? 0.5 : 0.25;
  const columns = Math.max(1, Math.floor(width / side)), gap = side > 5 ? 1.5 : side > 3 ? 0.75 : 0;
  const stretch = width / columns;  // fills the whole width
  const colors = { f: color("--free"), c: color("--cached"), h: color("--held"), s: color("--shared"), e: color("--sparse") };
  let index = 0;
  for (const [, count, state] of blocks.states.matchAll(/(\d+)([fchse])/g)) {
    c.fillStyle = colors[state];
    c.beginPath();
    for (const end = index + Number(count); index < end; index++)
      c.roundRect((index % columns) * stretch, Math.floor(index / columns) * side, stretch - gap, side - gap, side > 7 ? 2 : 0);
    c.fill();
  }
  $("blocks").textContent = `${blocks.held} of ${blocks.total} blocks live`;
}
function short_count(number) {
  return number < 10000 ? String(number) : number < 1e6 ? (number / 1000).toFixed(number < 1e5 ? 1 : 0) + "k" : (number / 1e6).toFixed(1) + "M";
}
function show_slots(slots) {
  $("slots").hidden = slots.held === 0 && slots.evicted === 0;
  $("fragmentation").textContent = (100 * slots.fragmentation).toFixed(1) + "%";
  $("live").textContent = short_count(slots.live);
  $("holes").textContent = short_count(slots.holes);
  $("evicted").textContent = short_count(slots.evicted);
  $("reused").textContent = short_count(slots.reused);
  for (const element of document.querySelectorAll(".sparse")) element.hidden = slots.evicted === 0;
}
function label(seconds) { return seconds < 1 ? `${seconds * 1000} ms` : `${seconds} s`; }
function draw_histogram(id, counts, bounds) {
  const [c, width, height] = context(id);
  const most = Math.max(1, ...counts), step = width / counts.length, floor = height - 16;
  const total = counts.reduce((sum, count) => sum + count, 0);
  let sum = 0, median = -1;
  counts.forEach((count, i) => { sum += count; if (median < 0 && total && sum * 2 >= total) median = i; });
  c.font = "10px system-ui, sans-serif";
  counts.forEach((count, i) => {
    const bar = count ? Math.max(2, (floor - 2) * count / most) : 1;
    c.fillStyle = count ? color(i === median ? "--held" : "--cached") : color("--line");
    c.beginPath();
    c.roundRect(i * step + 1.5, floor - bar, step - 3, bar, [3, 3, 0, 0]);
    c.fill();
    if (i % 3 === 1) {
      c.fillStyle = color("--soft");
      c.textAlign = "center";
      c.fillText(label(bounds[i - 1]), i * step, height - 3);
    }
  });
  $(id + "_p50").textContent = median < 0 ? "" : median < bounds.length ? `half under ${label(bounds[median])}` : `half over ${label(bounds.at(-1))}`;
}
const rates = [];
function draw_spark() {
  const [c, width, height] = context("spark"), most = Math.max(1, ...rates), step = width / 79;
  c.beginPath();
  c.moveTo(width - (rates.length - 1) * step, height);
  rates.forEach((rate, i) => c.lineTo(width - (rates.length - 1 - i) * step, height - 3 - (height * 0.6) * rate / most));
  c.lineTo(width, height);
  c.closePath();
  c.fillStyle = color("--cached");
  c.fill();
}
let last = null, shown = null;
function on_live(live) {
  const now = performance.now();
  if (last && now > last.at) {
    rates.push(Math.max(0, (live.generated_tokens - last.generated) / ((now - last.at) / 1000)));
    if (rates.length > 80) rates.shift();
    const recent = rates.slice(-4), rate = recent.reduce((a, b) => a + b, 0) / recent.length;
    $("rate").textContent = rate >= 10000 ? (rate / 1000).toFixed(1) + "k" : rate.toFixed(rate < 10 && rate > 0 ? 1 : 0);
  }
  last = { at: now, generated: live.generated_tokens };
  shown = live;
  $("running").textContent = live.running;
  $("waiting").textContent = live.waiting;
  $("preemptions").textContent = live.preemptions;
  $("hits").textContent = (live.prefix.queries ? Math.round(100 * live.prefix.hits / live.prefix.queries) : 0) + "%";
  draw();
}
function draw() {
  if (!shown) return;
  draw_spark();
  draw_map(shown.blocks);
  show_slots(shown.slots);
  draw_histogram("ttft", shown.ttft, shown.bounds_s);
  draw_histogram("itl", shown.itl, shown.bounds_s);
}
window.addEventListener("resize", () => { draw(); if (current) $("talk").scrollTop = $("talk").scrollHeight; });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
function watch() {
  const live = new WebSocket(base + "/v1/live", protocols);
  live.onopen = () => { $("link").textContent = "live"; $("link").className = "on"; };
  live.onmessage = (message) => on_live(JSON.parse(message.data));
  live.onclose = () => { $("link").textContent = "offline"; $("link").className = "off"; last = null; setTimeout(watch, 2000); };
}
watch();
fetch("/v1/models", { headers: key ? { Authorization: "Bearer " + key } : {} })
  .then((answer) => answer.json()).then((models) => { $("model").textContent = models.data[0].id; }).catch(() => {});
