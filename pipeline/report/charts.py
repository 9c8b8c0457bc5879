"""Line charts as SVG text, drawn by hand so that a page needs no library and no network.

Colours are CSS variables, so a chart in a page follows its light or dark scheme; a chart that
stands alone brings them along.
"""

from __future__ import annotations

import html
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from pipeline.core.terminal import shortened

Points = Sequence[tuple[float, float]]

NUM_COLOURS = 6
MAX_POINTS = 400  # about one a pixel
MAX_LABEL = 24  # characters of a series' name beside its line
CHARACTER = 7.3  # width of a character of 12 px in a wide font, in px

_STANDALONE = """<style>
svg{--ink:#1f2328;--muted:#656d76;--grid:#d8dee4;--faint:#b9cbe0;--paper:#ffffff;--s0:#2563a8;--s1:#b4520f;
--s2:#2a7d4f;--s3:#8a4fa3;--s4:#a8324a;--s5:#6b6a1f;font-family:system-ui,sans-serif}
@media (prefers-color-scheme:dark){svg{--ink:#e6edf3;--muted:#9198a1;--grid:#343b44;--faint:#38506b;
--paper:#14171b;--s0:#6cb0f2;--s1:#f0985a;--s2:#6cc795;--s3:#c79be0;--s4:#f08a9d;--s5:#cdca6a}}
</style>"""


def escaped(text: object) -> str:
    """Text made safe for HTML and XML; control characters are shown as their pictures."""
    plain = str(text)
    shown = "".join(
        chr(0x2400 + ord(c)) if ord(c) < 32 and c not in "\n\t" else "�" if _unfit(c) else c
        for c in plain
    )
    return html.escape(shown, quote=True)


def linear_ticks(low: float, high: float, target: int = 5) -> list[float]:
    """Round places (1, 2 or 5 times a power of ten) inside the range, about `target` of them."""
    if not low < high:
        return [low]
    rough = (high - low) / target
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.7)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Places for a logarithmic axis: powers of ten, with 2 and 5 where there are few."""
    low_power, high_power = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for factors in ((1,), (1, 3), (1, 2, 5)):
        places = [f * 10.0**p for p in range(low_power, high_power + 1) for f in factors]
        inside = [float(f"{x:.12g}") for x in places if low * 0.999999 <= x <= high * 1.000001]
        if len(inside) >= 4:
            every = math.ceil(len(inside) / 8)
            return inside[::every]
    return linear_ticks(low, high)


def thinned(points: Points, limit: int = MAX_POINTS) -> list[tuple[float, float]]:
    """At most `limit` points: means of equal runs of neighbours, where there are more."""
    if len(points) <= limit:
        return list(points)
    size = math.ceil(len(points) / limit)
    runs = [points[i : i + size] for i in range(0, len(points), size)]
    return [
        (math.fsum(x for x, _ in run) / len(run), math.fsum(y for _, y in run) / len(run))
        for run in runs
    ]


def running_mean(points: Points, reach: int) -> list[tuple[float, float]]:
    """Each y as the mean of it and its neighbours up to `reach` away; a gap stays a gap.

    Near an end the reach is shorter on both sides, so that a slope is not bent.
    """
    means = []
    for place, (x, y) in enumerate(points):
        away = min(reach, place, len(points) - 1 - place)
        near = [v for _, v in points[place - away : place + away + 1] if math.isfinite(v)]
        means.append((x, math.fsum(near) / len(near) if math.isfinite(y) else math.nan))
    return means


class _Axis(NamedTuple):
    low: float
    high: float
    log: bool
    start: float  # pixel of `low`
    end: float

    def __call__(self, value: float) -> float:
        low, high, at = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        width = high - low or 1.0  # of two numbers beside each other the logarithms are one
        return self.start + (at - low) / width * (self.end - self.start)

    def ticks(self, target: int = 5) -> list[float]:
        if self.log:
            return log_ticks(self.low, self.high)
        return linear_ticks(self.low, self.high, target)


def line_chart(
    series: dict[str, list[tuple[float, float]]],
    *,
    title: str = "",
    x_label: str = "",
    y_label: str = "",
    log_x: bool = False,
    log_y: bool = False,
    faint: Collection[str] = (),
    bands: Mapping[str, Sequence[tuple[float, float, float]]] | None = None,
    width: int = 640,
    height: int = 300,
    standalone: bool = False,
) -> str:
    """A line for each series, named at its end; an SVG element as text.

    A point that is not finite, or not positive on a logarithmic axis, is a gap in its line. More
    than 400 points are drawn as means of neighbours. With `standalone` it is a file by itself.

    Args:
        faint: names of series that are only background: pale, and not named.
        bands: by name of a series, what its points may be: x, low and high.
        width: of the drawing in px, as `height`; a page may scale it.
    """
    bands = bands or {}
    lines = {name: _segments(points, log_x, log_y) for name, points in series.items()}
    drawn = [point for segments in lines.values() for one in segments for point in one]
    around = {name: _fit_band(bands[name], log_x, log_y) for name in series if name in bands}
    reached = drawn + [(x, y) for band in around.values() for x, *ends in band for y in ends]
    root = (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 {width} {height}" '
        f'role="img" aria-label="{escaped(title or y_label or "line chart")}" font-size="12">'
    )
    style = _STANDALONE if standalone else ""
    paper = f'<rect width="{width}" height="{height}" fill="var(--paper)"/>' if standalone else ""
    if not drawn:
        note = f'<text x="{width / 2}" y="{height / 2}" text-anchor="middle" fill="var(--muted)">'
        return f"{root}{style}{paper}{note}no points to draw</text></svg>"

    names = {name: shortened(name, MAX_LABEL) for name in series if name not in faint}
    several = len(names) > 1
    right = width - (max(map(len, names.values())) * CHARACTER + 22 if several else 14)
    top = (30 if title else 12) + (18 if y_label else 0)
    x_low, x_high = _range([x for x, _ in reached], log_x, margin=0.0)
    if not log_x and 0 < x_low < 0.1 * x_high:
        x_low = 0.0
    y_low, y_high = _range([y for _, y in reached], log_y, margin=0.05)
    x = _Axis(x_low, x_high, log_x, 58, right)
    y = _Axis(y_low, y_high, log_y, height - (44 if x_label else 28), top)

    parts = [root, style, paper]
    if title:
        parts.append(_text(12, 20, shortened(title, int(width / 7.5)), "start", bold=True))
    if y_label:
        parts.append(_text(12, top - 10, y_label, "start", muted=True))
    if x_label:
        parts.append(_text((x.start + x.end) / 2, height - 8, x_label, "middle", muted=True))
    parts += _grid(x, y, max(2, int((x.end - x.start) / 90)))
    ends = []
    for place, name in enumerate(names):
        if around.get(name):
            parts.append(_band(around[name], x, y, f"var(--s{place % NUM_COLOURS})"))
    for name in faint:
        parts.append(_line(name, lines[name], x, y, "var(--faint)", dashed=False))
    for place, name in enumerate(names):
        segments, colour = lines[name], f"var(--s{place % NUM_COLOURS})"
        parts.append(_line(name, segments, x, y, colour, dashed=place >= NUM_COLOURS))
        if segments:
            last_x, last_y = segments[-1][-1]
            ends.append((y(last_y), x(last_x), names[name], colour, name))
    if several:
        parts += _labels(ends, x.end, top, y.start)
    return "".join(parts) + "</svg>"


def _segments(points: Points, log_x: bool, log_y: bool) -> list[list[tuple[float, float]]]:
    """The runs of drawable points between gaps."""
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        fit = math.isfinite(x) and math.isfinite(y) and not (log_x and x <= 0)
        if fit and not (log_y and y <= 0):
            runs[-1].append((float(x), float(y)))
        elif runs[-1]:
            runs.append([])
    total = sum(map(len, runs))
    return [thinned(r, max(2, MAX_POINTS * len(r) // total)) for r in runs if r]


def _fit_band(
    band: Sequence[tuple[float, float, float]], log_x: bool, log_y: bool
) -> list[tuple[float, float, float]]:
    """The points of a band that can be drawn."""
    return [
        (float(x), float(low), float(high))
        for x, low, high in band
        if all(map(math.isfinite, (x, low, high)))
        and low <= high
        and not (log_x and x <= 0)
        and not (log_y and low <= 0)
    ]


def _band(band: Sequence[tuple[float, float, float]], x: _Axis, y: _Axis, colour: str) -> str:
    above = [(px, high) for px, _, high in band]
    below = [(px, low) for px, low, _ in reversed(band)]
    outline = " ".join(f"{x(px):.1f},{y(py):.1f}" for px, py in above + below)
    return f'<polygon points="{outline}" fill="{colour}" fill-opacity="0.18" stroke="none"/>'


def _range(values: list[float], log: bool, margin: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    if low == high and log:
        return low / 1.5, high * 1.5
    if low == high:
        around = 0.1 * (abs(low) or 1.0)
        return low - around, high + around
    if log:
        ratio = (high / low) ** margin
        return low / ratio, high * ratio
    return low - margin * (high - low), high + margin * (high - low)


def _grid(x: _Axis, y: _Axis, x_target: int) -> Iterable[str]:
    for value in y.ticks():
        at = y(value)
        yield _stroke(x.start, at, x.end, at, "var(--grid)")
        yield _text(x.start - 8, at + 4, tick_label(value), "end", muted=True)
    for value in x.ticks(min(6, x_target)):
        at = x(value)
        yield _stroke(at, y.start, at, y.start + 4, "var(--muted)")
        yield _text(at, y.start + 18, tick_label(value), "middle", muted=True)
    yield _stroke(x.start, y.start, x.end, y.start, "var(--muted)")


def _line(
    name: str,
    segments: list[list[tuple[float, float]]],
    x: _Axis,
    y: _Axis,
    colour: str,
    dashed: bool,
) -> str:
    path = "".join(
        ("M" if i == 0 else "L") + f"{x(px):.1f},{y(py):.1f}"
        for segment in segments
        for i, (px, py) in enumerate(segment)
    )
    dash = ' stroke-dasharray="5 3"' if dashed else ""
    drawn = f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.6"{dash}/>'
    points = [point for segment in segments for point in segment]
    if len(points) <= 24:
        drawn += "".join(
            f'<circle cx="{x(px):.1f}" cy="{y(py):.1f}" r="3" fill="{colour}">'
            f"<title>{escaped(name)}: {py:.4g} at {tick_label(px)}</title></circle>"
            for px, py in points
        )
    return f"<g><title>{escaped(name)}</title>{drawn}</g>"


def _labels(
    ends: list[tuple[float, float, str, str, str]], right: float, top: float, bottom: float
) -> Iterable[str]:
    """Names beside the ends of their lines, moved apart where they would touch."""
    ends = sorted(ends)
    gap = min(15.0, (bottom - top) / max(1, len(ends)))
    places: list[float] = []
    for at, *_ in ends:
        places.append(max(at, places[-1] + gap) if places else at)
    over = places[-1] - bottom if places else 0.0
    for i in reversed(range(len(places))):
        limit = bottom if i == len(places) - 1 else places[i + 1] - gap
        places[i] = min(places[i], limit) if over > 0 else places[i]
    for at, (end_y, end_x, short, colour, name) in zip(places, ends, strict=True):
        if end_x > right - 1:
            yield _stroke(end_x, end_y, right + 13, at, colour)
        else:  # the line ends early: its colour alone leads to its name
            yield _stroke(right + 4, at, right + 13, at, colour)
        yield (
            f'<text x="{right + 17:.1f}" y="{at + 4:.1f}" fill="var(--ink)">{escaped(short)}'
            f"<title>{escaped(name)}</title></text>"
        )


def _text(
    x: float, y: float, text: str, anchor: str, *, muted: bool = False, bold: bool = False
) -> str:
    fill = "var(--muted)" if muted else "var(--ink)"
    weight = ' font-weight="600" font-size="13"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}"{weight}>'
        f"{escaped(text)}</text>"
    )


def _stroke(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
        'stroke-width="1"/>'
    )


def tick_label(value: float) -> str:
    """A short number: 1.5k and 20M above a thousand, scientific where it is very small."""
    for limit, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            unit = 1e3 if suffix == "k" else limit
            return f"{value / unit:.4g}{suffix}"
    return f"{value:.4g}"


def _unfit(character: str) -> bool:
    """Not a character of XML: surrogates, and two that Unicode keeps free."""
    code = ord(character)
    return 0xD800 <= code <= 0xDFFF or code in (0xFFFE, 0xFFFF) or 0x7F <= code < 0xA0
