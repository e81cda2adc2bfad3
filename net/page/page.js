// SPDX-License-Identifier: Apache-2.0
"use strict";
const $ = (id) => document.getElementById(id);
const key = new URLSearchParams(location.hash.slice(1)).get("key");
const protocols = key ? ["realtime", "openai-insecure-api-key." + key] : [];
const base = (location.protocol === "https:" ? "wss://" : "ws://") + location.host;

// ---- chat ----
let socket = null, previous = null, current = null, pending = null;

function turn(kind, text) {
  const div = document.createElement("div");
  div.className = "turn " + kind;
  div.textContent = text;
  $("talk").append(div);
  div.scrollIntoView();
  return div;
}
function busy(on) { $("send").disabled = on; $("stop").disabled = !on; }

function connect(then) {
  if (socket && socket.readyState === WebSocket.OPEN) return then();
  socket = new WebSocket(base + "/v1/responses", protocols);
  socket.onopen = then;
  socket.onmessage = (message) => on_event(JSON.parse(message.data));
  socket.onclose = () => { if (current) { turn("note", "The connection was closed."); current = null; } busy(false); };
}
function create(input) {
  const event = { type: "response.create", input };
  if (previous) event.previous_response_id = previous;
  pending = input;
  socket.send(JSON.stringify(event));
}
function on_event(event) {
  if (event.type === "response.created") {
    current = { id: event.response.id, div: turn("assistant", "") };
  } else if (event.type === "response.output_text.delta" && current) {
    current.div.textContent += event.delta;
    current.div.scrollIntoView(false);
  } else if (["response.completed", "response.incomplete", "response.failed"].includes(event.type)) {
    if (event.response.status === "completed" || event.response.incomplete_details) previous = event.response.id;
    const usage = event.response.usage;
    if (usage) turn("note", `${usage.output_tokens} tokens, ${usage.input_tokens_details.cached_tokens} of ` +
      `${usage.input_tokens} prompt tokens from the cache` + (event.response.status === "cancelled" ? ", stopped" : ""));
    if (event.response.error) turn("note", event.response.error.message);
    current = null;
    busy(false);
  } else if (event.type === "error") {
    if (event.error.code === "previous_response_not_found" && previous) { previous = null; return create(pending); }
    turn("note", event.error.message);
    current = null;
    busy(false);
  }
}
$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("prompt").value.trim();
  if (!text || $("send").disabled) return;
  $("prompt").value = "";
  turn("user", text);
  busy(true);
  connect(() => create(text));
});
$("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey) { event.preventDefault(); $("form").requestSubmit(); }
});
$("stop").addEventListener("click", () => {
  if (current) socket.send(JSON.stringify({ type: "response.cancel", response_id: current.id }));
});

// ---- the engine, live ----
function context(canvas) {
  const scale = window.devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
  canvas.width = width * scale;
  canvas.height = height * scale;
  const c = canvas.getContext("2d");
  c.scale(scale, scale);
  return [c, width, height];
}
function color(name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); }

function draw_map(blocks) {
  const [c, width, height] = context($("map"));
  let side = Math.max(2, Math.floor(Math.sqrt((width * height) / Math.max(1, blocks.total))));
  while (side > 2 && Math.ceil(blocks.total / Math.floor(width / side)) * side > height) side--;
  const columns = Math.max(1, Math.floor(width / side)), gap = side > 4 ? 1 : 0;
  const colors = { f: color("--free"), c: color("--cached"), h: color("--held"), s: color("--shared") };
  let index = 0;
  for (const [, count, state] of blocks.states.matchAll(/(\d+)([fchs])/g)) {
    c.fillStyle = colors[state];
    for (let end = index + Number(count); index < end; index++)
      c.fillRect((index % columns) * side, Math.floor(index / columns) * side, side - gap, side - gap);
  }
  $("blocks").textContent = `${blocks.held} of ${blocks.total} blocks`;
}
function draw_histogram(id, counts, bounds) {
  const [c, width, height] = context($(id));
  const most = Math.max(1, ...counts), step = width / counts.length;
  c.font = "10px system-ui";
  counts.forEach((count, i) => {
    const bar = (height - 14) * count / most;
    c.fillStyle = color("--held");
    c.fillRect(i * step + 1, height - 14 - bar, step - 2, bar);
    c.fillStyle = color("--fg");
    c.fillText(i < bounds.length ? (bounds[i] < 1 ? bounds[i] * 1000 + " ms" : bounds[i] + " s") : "more", i * step + 1, height - 2);
  });
}
let last = null;
function on_live(live) {
  const now = performance.now();
  if (last) {
    const rate = (live.generated_tokens - last.generated) / ((now - last.at) / 1000);
    last.rate = last.rate === undefined ? rate : last.rate * 0.6 + rate * 0.4;
    $("rate").textContent = last.rate.toFixed(last.rate < 10 ? 1 : 0);
  }
  last = { at: now, generated: live.generated_tokens, rate: last ? last.rate : undefined };
  $("running").textContent = live.running;
  $("waiting").textContent = live.waiting;
  $("preemptions").textContent = live.preemptions;
  $("hits").textContent = live.prefix.queries ? Math.round(100 * live.prefix.hits / live.prefix.queries) + " %" : "0 %";
  draw_map(live.blocks);
  draw_histogram("ttft", live.ttft, live.bounds_s);
  draw_histogram("itl", live.itl, live.bounds_s);
}
function watch() {
  const live = new WebSocket(base + "/v1/live", protocols);
  live.onopen = () => { $("link").textContent = "live"; $("link").className = "on"; };
  live.onmessage = (message) => on_live(JSON.parse(message.data));
  live.onclose = () => { $("link").textContent = "offline"; $("link").className = "off"; last = null; setTimeout(watch, 2000); };
}
watch();
fetch("/v1/models", { headers: key ? { Authorization: "Bearer " + key } : {} })
  .then((answer) => answer.json()).then((models) => { $("model").textContent = models.data[0].id; }).catch(() => {});
