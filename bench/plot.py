#!/usr/bin/env python3
"""Draws what pagoda-bench measured: plot.py RESULT.json > plot.svg

One point for each allocator: geometric means of time and of peak RSS over the workloads of the
file, as ratios to its base. Less is better in both directions."""

import json
import sys
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 64, 96, 24, 56
OURS, THEIRS, INK, GRID = "#c0392b", "#5b6b7b", "#2c3e50", "#dfe4ea"


def ticks(most):
    step = next(s for s in (0.1, 0.2, 0.25, 0.5, 1, 2, 5, 10, 1e9) if most / s <= 8)
    return [i * step for i in range(int(most / step) + 2)]


def text(x, y, words, anchor="middle", colour=INK, extra=""):
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" {extra}>'
            f"{escape(words)}</text>")


def plot(result):
    points = [(p["peer"], p["time"], p["rss"]) for p in result["geomean"]]
    xs, ys = ticks(max(p[1] for p in points)), ticks(max(p[2] for p in points))

    def x(value):
        return LEFT + value / xs[-1] * (WIDTH - LEFT - RIGHT)

    def y(value):
        return HEIGHT - BOTTOM - value / ys[-1] * (HEIGHT - TOP - BOTTOM)

    yield (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
           f'width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="12">')
    yield f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>'
    for tick in xs:
        yield f'<path d="M{x(tick):.1f} {y(0):.1f}V{y(ys[-1]):.1f}" stroke="{GRID}"/>'
        yield text(x(tick), y(0) + 18, f"{tick:g}")
    for tick in ys:
        yield f'<path d="M{x(0):.1f} {y(tick):.1f}H{x(xs[-1]):.1f}" stroke="{GRID}"/>'
        yield text(LEFT - 8, y(tick) + 4, f"{tick:g}", "end")
    for name, time, rss in points:
        ours = name == "pagoda"
        colour = OURS if ours else THEIRS
        yield f'<circle cx="{x(time):.1f}" cy="{y(rss):.1f}" r="{7 if ours else 5}" fill="{colour}"/>'
        # Ours to the left, where the neighbours' names are not.
        yield text(x(time) + (-12 if ours else 10), y(rss) + 4, name, "end" if ours else "start",
                   colour, 'font-weight="bold"' if ours else "")
    base, rows = result["base"], len(result["workloads"])
    yield text((x(0) + x(xs[-1])) / 2, HEIGHT - 14, f"time / {base}, geometric mean of {rows} rows")
    yield text(16, (y(0) + y(ys[-1])) / 2, f"peak RSS / {base}",
               extra=f'transform="rotate(-90 16 {(y(0) + y(ys[-1])) / 2:.1f})"')
    yield "</svg>"


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        with open(sys.argv[1], encoding="utf-8") as file:
            result = json.load(file)
        print("\n".join(plot(result)))
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"plot.py: {sys.argv[1]}: {error!r}")


if __name__ == "__main__":
    main()
