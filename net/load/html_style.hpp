// SPDX-License-Identifier: Apache-2.0
#pragma once

// The style sheet of the HTML report. Classes c1 to c4 colour lines, areas, dots and bars alike.

#include <string_view>

namespace spillway::net::load {

inline constexpr std::string_view kReportStyle = R"css(
:root { color-scheme: light dark; --bg: #f6f7f5; --card: #ffffff; --fg: #1b2024; --dim: #667077; --line: #e3e6e2;
  --grid: #eceeeb; --c1: #1769c4; --c2: #d9822b; --c3: #8a94a0; --c4: #cf3f36; --good: #23855a; }
@media (prefers-color-scheme: dark) { :root { --bg: #111417; --card: #191d21; --fg: #e4e7e5; --dim: #98a2a9;
  --line: #2b3136; --grid: #242a2f; --c1: #6aaef8; --c2: #f0a95a; --c3: #6d7883; --c4: #f2766c; --good: #5cc795; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--bg); color: var(--fg); font: 15px/1.5 system-ui, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .3rem; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; margin: 2.2rem 0 .8rem; }
h3 { font-size: .92rem; margin: 0 0 .1rem; }
p { margin: .2rem 0; } .dim { color: var(--dim); font-size: .87rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(138px, 1fr)); gap: .75rem; margin-top: 1.4rem; }
.tile, .card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.tile { padding: .75rem .9rem .7rem; } .tile b { display: block; font-size: 1.5rem; font-weight: 620; line-height: 1.25;
  font-variant-numeric: tabular-nums; letter-spacing: -.02em; } .tile b i { font-size: .85rem; font-style: normal;
  font-weight: 450; color: var(--dim); letter-spacing: 0; margin-left: .25em; }
.tile span { color: var(--dim); font-size: .82rem; } .tile small { display: block; color: var(--dim); font-size: .8rem; }
.bad b { color: var(--c4); } .good b { color: var(--good); }
.card { padding: .9rem 1rem .7rem; min-width: 0; } .wide { grid-column: 1 / -1; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); gap: .9rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .34rem .7rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 560; font-size: .82rem; color: var(--dim); } tr:last-child > * { border-bottom: 0; }
th:first-child, td:first-child { text-align: left; padding-left: .2rem; } td:first-child { font-weight: 500; }
.facts td { text-align: left; font-weight: 400; white-space: normal; overflow-wrap: anywhere; }
.facts td:first-child { color: var(--dim); width: 13rem; }
.legend { font-size: .8rem; color: var(--dim); display: flex; flex-wrap: wrap; gap: .1rem 1rem; margin: .1rem 0 .3rem; }
.legend i { display: inline-block; width: .8em; height: .8em; border-radius: 3px; margin-right: .4em;
  vertical-align: -.06em; }
i.c1 { background: var(--c1); } i.c2 { background: var(--c2); } i.c3 { background: var(--c3); } i.c4 { background: var(--c4); }
svg { display: block; width: 100%; height: auto; } svg text { font-size: 11px; fill: var(--dim); }
svg text.mark { fill: var(--fg); } .grid { stroke: var(--grid); } .axis { stroke: var(--dim); } path { fill: none; }
path.mark { stroke: var(--fg); stroke-dasharray: 2 3; opacity: .65; }
.line { stroke-width: 1.8; stroke-linejoin: round; } .line.c1 { stroke: var(--c1); } 
.line.c2 { stroke: var(--c2); } .dashed { stroke-dasharray: 5 3; }
.line.c3 { stroke: var(--c3); } .area { opacity: .16; stroke: none; } .area.c1 { fill: var(--c1); } .area.c3 { fill: var(--c3); }
.area.c2 { fill: var(--c2); }
.dots { stroke-width: 4.5; stroke-linecap: round; opacity: .65; } .dots.c1 { stroke: var(--c1); } .dots.c2 { stroke: var(--c2); }
.dots.c4 { stroke: var(--c4); opacity: .9; }
.bar.c1 { fill: var(--c1); } .bar.c2 { fill: var(--c2); } .bar.c3 { fill: var(--c3); opacity: .55; } .bar.c4 { fill: var(--c4); }
@media print { body { background: #fff; } .card, .tile { break-inside: avoid; } }
)css";

}  // namespace spillway::net::load
