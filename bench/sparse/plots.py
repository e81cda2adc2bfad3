# SPDX-License-Identifier: Apache-2.0
"""Plots of bench/sparse/run.py's figures, as SVG files that are read on white and on black. Standard library only."""

import html
import os

import paper

COLOURS = {"spvllm": "#11787a", "free-block": "#e0912f", "sparse-copy": "#7a5bb5", "no-op": "#b8402f", "exact": "#777777",
           "h2o": "#11787a", "tova": "#e0912f", "snapkv": "#7a5bb5", "streaming": "#b8402f", "random": "#4a7fd0",
           "head": "#11787a", "layer": "#e0912f", "token": "#b8402f"}
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 300, 62, 150, 34, 44


def number(value):
    for size, suffix in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.3g}"


def ticks(most):
    """Round steps from 0 to `most`."""
    step = 10 ** len(str(int(most))) / 10 if most >= 1 else 0.01
    while most / step > 6:
        step *= 2 if str(step)[0] != "2" else 2.5
    while most / step < 3:
        step /= 2
    return [i * step for i in range(int(most / step) + 1)]


class Plot:
    def __init__(self, title, y_label, y_most, percent=False):
        self.title, self.y_most, self.percent = title, y_most or 1, percent
        self.body, self.keys = [], []
        self.text(LEFT, 18, title, "font-weight='600'", 13)
        for tick in ticks(self.y_most):
            y = self.y(tick)
            self.body.append(f"<path d='M{LEFT} {y:.1f}H{WIDTH - RIGHT}' stroke='#888' stroke-opacity='.3'/>")
            self.text(LEFT - 6, y + 4, f"{tick * 100:.3g}%" if percent else number(tick), "text-anchor='end'")
        self.body.append(f"<text transform='translate(13 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)' text-anchor='middle' font-size='11' "
                         f"class='t'>{html.escape(y_label)}</text>")

    def text(self, x, y, words, more="", size=11):
        self.body.append(f"<text x='{x:.1f}' y='{y:.1f}' class='t' font-size='{size}' {more}>{html.escape(str(words))}</text>")

    def y(self, value):
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * min(value, self.y_most) / self.y_most

    def x(self, share):
        return LEFT + (WIDTH - RIGHT - LEFT) * share

    def key(self, name, colour, dashed=False):
        y = TOP + 8 + 18 * len(self.keys)
        self.keys.append(name)
        dashes = " stroke-dasharray='4 3'" if dashed else ""
        self.body.append(f"<path d='M{WIDTH - RIGHT + 12} {y}h20' stroke='{colour}' stroke-width='2.5'{dashes}/>")
        self.text(WIDTH - RIGHT + 38, y + 4, name)

    def line(self, points, colour, dashed=False, dots=False):
        path = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        self.body.append(f"<polyline points='{path}' fill='none' stroke='{colour}' stroke-width='1.8'"
                         + (" stroke-dasharray='4 3'" if dashed else "") + "/>")
        if dots:
            self.body += [f"<circle cx='{self.x(x):.1f}' cy='{self.y(y):.1f}' r='3' fill='{colour}'/>" for x, y in points]

    def bar(self, left, right, value, colour, title, hollow=False):
        y = self.y(value)
        paint = f"fill='none' stroke='{colour}' stroke-width='1.3'" if hollow else f"fill='{colour}'"
        self.body.append(f"<rect x='{self.x(left):.1f}' y='{y:.1f}' width='{self.x(right) - self.x(left):.1f}' "
                         f"height='{max(0.5, HEIGHT - BOTTOM - y):.1f}' {paint}><title>{html.escape(title)}</title></rect>")

    def save(self, path):
        with open(path, "w", encoding="utf-8") as file:
            file.write(f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}' role='img' "
                       f"aria-label='{html.escape(self.title, quote=True)}'><style>.t{{font-family:system-ui,sans-serif;"
                       "fill:#555}@media(prefers-color-scheme:dark){.t{fill:#bbb}}</style>" + "".join(self.body) + "</svg>\n")
        return path


def fragmentation_plot(folder, steps):
    """Over iterations, each configuration's own length as the whole width."""
    paths = []
    for budget in sorted({each["budget"] for each in steps if each["budget"]}):
        plot = Plot(f"Fragmentation over iterations, budget {budget} (dashed: the paper's p99)", "empty share of held slots", 1, True)
        for each in [s for s in steps if s["budget"] in (None, budget)]:
            name = each["strategy"] or "exact"
            points = each["fragmentation"]
            plot.line([(i / max(1, len(points) - 1), value) for i, value in enumerate(points)], COLOURS[name])
            plot.key(name, COLOURS[name])
            reported = paper.FRAGMENTATION_P99.get(name, {}).get(budget)
            if reported is not None:
                plot.line([(0, reported), (1, reported)], COLOURS[name], dashed=True)
        paths.append(plot.save(os.path.join(folder, f"sparse-fragmentation-{budget}.svg")))
    return paths


def bars_plot(folder, rows, column, title, unit, percent=False, reported=None, whose="the paper's"):
    """Groups by budget, a bar a strategy, the exact engine as a line; `reported`: hollow bars, by strategy and budget."""
    sparsified = [row for row in rows if row["strategy"]]
    exact = next((row for row in rows if row["method"] == "none"), None)
    budgets = sorted({row["budget"] for row in sparsified})
    strategies = [name for name in COLOURS if any(row["strategy"] == name for row in sparsified)]
    values = [row[column] for row in rows if row[column] is not None]
    if reported:
        values += [value for each in reported.values() for value in each.values()]
    plot = Plot(title, unit, 1.08 * max(values, default=1), percent)
    group = 1 / max(1, len(budgets))
    for g, budget in enumerate(budgets):
        plot.text(plot.x((g + 0.5) * group), HEIGHT - BOTTOM + 16, f"budget {budget}", "text-anchor='middle'")
        width = 0.84 * group / max(1, len(strategies))
        for s, strategy in enumerate(strategies):
            left = g * group + 0.08 * group + s * width
            for row in sparsified:
                if (row["budget"], row["strategy"]) == (budget, strategy):
                    plot.bar(left, left + 0.85 * width, row[column], COLOURS[strategy], f"{strategy} {row[column]:.4g}")
            if reported and budget in reported.get(strategy, {}):
                plot.bar(left, left + 0.85 * width, reported[strategy][budget], "#888", "paper", hollow=True)
    for strategy in strategies:
        plot.key(strategy, COLOURS[strategy])
    if reported:
        plot.key(whose, "#888")
    if exact:
        plot.line([(0, exact[column]), (1, exact[column])], COLOURS["exact"], dashed=True)
        plot.key("exact engine", COLOURS["exact"], dashed=True)
    return plot.save(os.path.join(folder, f"sparse-{column.replace('_', '-')}.svg"))


def quality_plots(folder, rows):
    paths = []
    exact = next(row for row in rows if row["method"] == "none")
    percents = sorted({row["percent"] for row in rows})
    place = {percent: i / max(1, len(percents) - 1) for i, percent in enumerate(percents)}
    methods = [name for name in COLOURS if any(row["method"] == name for row in rows)]
    for column, title in (("perplexity", "Perplexity"), ("agreement", "Greedy agreement with the exact model")):
        for granularity in [name for name in ("head", "layer", "token") if any(row["granularity"] == name for row in rows)]:
            shown = [row for row in rows if row["granularity"] == granularity or row["method"] == "streaming"]
            most, label = 1, column
            if column == "perplexity":  # random's would press the others flat
                most, label = min(1.05 * max(row[column] for row in rows), 1.6 * exact[column]), "perplexity (or more, at the top)"
            plot = Plot(f"{title}, granularity {granularity}", label, most, column == "agreement")
            for percent in percents:
                plot.text(plot.x(place[percent]), HEIGHT - BOTTOM + 16, f"{percent}%", "text-anchor='middle'")
            plot.text(plot.x(0.5), HEIGHT - 8, f"budget, of {exact['context']} tokens", "text-anchor='middle'")
            for method in methods:
                points = sorted((place[row["percent"]], row[column]) for row in shown if row["method"] == method)
                plot.line(points, COLOURS[method], dots=True)
                plot.key(method, COLOURS[method])
            plot.line([(0, exact[column]), (1, exact[column])], COLOURS["exact"], dashed=True)
            plot.key("exact", COLOURS["exact"], dashed=True)
            paths.append(plot.save(os.path.join(folder, f"sparse-{column}-{granularity}.svg")))
    return paths


def needle_plot(folder, rows):
    """Found over depth: a row a configuration, a cell a depth, the darker the more."""
    depths = sorted({row["depth"] for row in rows})
    names = list(dict.fromkeys((row["method"], row["granularity"], row["percent"]) for row in rows
                               if row["method"] == "none" or row["percent"] < 100))
    cell, left, top = 22, 190, 52
    width, height = left + cell * len(depths) + 20, top + cell * len(names) + 30
    body = ["<text x='8' y='18' class='t' font-weight='600' font-size='13'>Needle found, by depth in the text</text>"]
    for d, depth in enumerate(depths):
        body.append(f"<text x='{left + d * cell + cell / 2}' y='{top - 8}' text-anchor='middle' class='t' font-size='9'>{depth:.0%}</text>")
    for n, (method, granularity, percent) in enumerate(names):
        label = "exact" if method == "none" else f"{method}, {granularity}, {percent}%"
        body.append(f"<text x='{left - 8}' y='{top + n * cell + 15}' text-anchor='end' class='t' font-size='11'>{label}</text>")
        for row in rows:
            if (row["method"], row["granularity"], row["percent"]) != (method, granularity, percent):
                continue
            share = row["found"] / row["trials"]
            body.append(f"<rect x='{left + depths.index(row['depth']) * cell + 1}' y='{top + n * cell + 1}' width='{cell - 2}' "
                        f"height='{cell - 2}' rx='3' fill='#11787a' fill-opacity='{0.08 + 0.92 * share:.2f}'>"
                        f"<title>{row['found']} of {row['trials']}</title></rect>")
    path = os.path.join(folder, "sparse-needle.svg")
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' role='img' aria-label='Needle found, by depth'>"
                   "<style>.t{font-family:system-ui,sans-serif;fill:#555}@media(prefers-color-scheme:dark){.t{fill:#bbb}}</style>"
                   + "".join(body) + "</svg>\n")
    return path


def draw(folder, rows, steps):
    os.makedirs(folder, exist_ok=True)
    if rows and "depth" in rows[0]:
        return [needle_plot(folder, rows)]
    if rows and "agreement" in rows[0]:
        return quality_plots(folder, rows)
    paths = fragmentation_plot(folder, steps)
    paths.append(bars_plot(folder, rows, "frag_p99", "Fragmentation, p99 over iterations", "empty share", True,
                           paper.FRAGMENTATION_P99))
    exact = next((row for row in rows if row["method"] == "none"), None)
    for column, title, unit, ratio in (("req_per_s", "Throughput", "requests/s", paper.SPEED_UP),
                                       ("ttft_p50_ms", "Time to first token, p50", "ms", None),
                                       ("tpot_p50_ms", "Time per output token, p50", "ms", None),
                                       ("itl_p99_ms", "Between tokens, p99", "ms", paper.ITL_P99_SHARE),
                                       ("preemptions", "Preemptions", "", None)):
        reported = {"spvllm": {256: exact[column] * ratio}} if exact and ratio else None
        paths.append(bars_plot(folder, rows, column, title, unit, reported=reported, whose="paper, x exact"))
    return paths
