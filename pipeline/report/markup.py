"""HTML in which text is escaped unless it is an `Html`: elements, tables, numbers in words."""

from __future__ import annotations

import math
from collections.abc import Iterable

from pipeline.core.terminal import shortened
from pipeline.report.charts import escaped, tick_label
from pipeline.report.tables import Cell, Change, Link, Measure, Share, Table

MAX_ROWS = 200  # of a table; the rest is in the result
OPEN_ROWS = 12  # a table this short is shown without a click
MAX_TEXT = 2000  # characters of a document or a generation
MAX_CELL = 160
CLASSES = {  # verdicts that stand out
    "better": "good",
    "above chance": "good",
    "worse": "bad",
    "below chance": "bad",
    "at chance": "mark",
    "no clear change": "mark",
}


class Html(str):
    """Text that is already HTML."""


def tag(name: str, *children: str, **attributes: str | bool) -> Html:
    """An element; children and attributes are escaped unless they are Html.

    `class_` stands for class; an attribute that is True has no value, a False one is left out.
    """
    shown = ""
    for key, value in attributes.items():
        key = key.rstrip("_")
        if value is True:
            shown += f" {key}"
        elif value is not False:
            shown += f' {key}="{escaped(value)}"'
    return Html(f"<{name}{shown}>{joined(children)}</{name}>")


def joined(parts: Iterable[str]) -> Html:
    """Parts behind each other, escaped unless they are Html."""
    return Html("".join(p if isinstance(p, Html) else escaped(p) for p in parts))


def note(*children: str) -> Html:
    """A short remark on what follows."""
    return tag("p", *children, class_="note")


def fold(summary: str, *children: str, about: str = "", is_open: bool = False) -> Html:
    """What is shown after a click on its summary."""
    head = tag("summary", summary, tag("span", f" {about}") if about else Html(""))
    return tag("details", head, *children, open=is_open)


def breakable(text: str) -> Html:
    """Text that may go on in the next line after a dot or an underscore, as names do."""
    return Html(escaped(text).replace("_", "_<wbr>").replace(".", ".<wbr>"))


def shown_table(table: Table) -> Html:
    """A table whose number columns are right-aligned; long ones end in a count of the rest."""
    numeric = [
        any(isinstance(row[i], (int, float, Measure, Change, Share)) for row in table.rows)
        for i in range(len(table.heads))
    ]
    heads = (
        tag("th", head, class_="n" if n else "t", scope="col")
        for head, n in zip(table.heads, numeric, strict=True)
    )
    cut = len(table.rows) > MAX_ROWS
    rows = []
    for place, row in enumerate(table.rows):
        if cut and place >= MAX_ROWS and place not in table.totals:
            continue
        cells = (
            tag("td", shown_cell(cell), class_="n" if n else "t")
            for cell, n in zip(row, numeric, strict=True)
        )
        rows.append(tag("tr", *cells, class_="total" if place in table.totals else False))
    body = tag("table", tag("thead", tag("tr", *heads)), tag("tbody", *rows))
    left_out = len(table.rows) - len(rows)
    rest = note(f"{left_out:,} more rows stand in the result.")
    return joined([tag("div", body, class_="scroll"), rest if left_out else Html("")])


def folded_table(summary: str, table: Table, *, open_rows: int = 0) -> Html:
    """A table behind its summary, open where it has no more than `open_rows`."""
    number = f"{len(table.rows):,} row" + ("" if len(table.rows) == 1 else "s")
    return fold(summary, shown_table(table), about=number, is_open=len(table.rows) <= open_rows)


def shown_cell(cell: Cell) -> Html:
    """One value of a table."""
    if cell is None:
        return Html("")
    if isinstance(cell, Link):
        return tag("a", cell.text, href=cell.href, title=cell.title or False)
    if isinstance(cell, Measure):
        if math.isnan(cell.value):
            return Html("–")
        if math.isnan(cell.standard_error):
            return Html(short_float(cell.value))
        error = tag("span", f" ± {short_float(cell.standard_error)}", class_="error")
        return joined([short_float(cell.value), error])
    if isinstance(cell, Change):
        sign = "−" if cell.value < 0 else "+"
        size = shown_cell(Measure(abs(cell.value), cell.standard_error))
        return joined([sign, size, " " if cell.verdict else "", _worded(cell.verdict)])
    if isinstance(cell, Share):
        width = min(100.0, max(0.0, 100 * cell.fraction))
        bar = tag("span", class_="bar", style=f"width:{width:.1f}%")
        return joined([tag("span", bar, class_="track"), percent(cell.fraction)])
    if isinstance(cell, bool):
        return Html("yes" if cell else "no")
    if isinstance(cell, int):
        return Html(f"{cell:,}")
    if isinstance(cell, float):
        return Html(short_float(cell))
    if cell in CLASSES:
        return _worded(cell)
    if len(cell) == 64 and set(cell) <= set("0123456789abcdef"):
        return tag("code", cell[:12] + "…", title=cell)
    if len(cell) > MAX_CELL:
        return tag("span", breakable(shortened(cell, MAX_CELL)), title=shortened(cell, MAX_TEXT))
    return breakable(cell)


def _worded(verdict: str) -> Html:
    return tag("span", verdict, class_=CLASSES[verdict]) if verdict in CLASSES else Html("")


def percent(fraction: float) -> str:
    """A share in percent, never shown as nothing when it is something."""
    shown = 100 * fraction
    return f"{shown:.1f}%" if shown >= 0.05 or not shown else "<0.1%"


def short_float(value: float) -> str:
    """A number to three places, scientific where that would say nothing."""
    if not math.isfinite(value):
        return "–"
    if value and (abs(value) >= 1e5 or abs(value) < 1e-3):
        return f"{value:.2e}"
    return f"{value:.3f}" if abs(value) < 100 else f"{value:,.1f}"


def short_count(value: int) -> str:
    """A count in full below a hundred thousand, else as 1.23M."""
    return f"{value:,}" if value < 100_000 else tick_label(float(f"{value:.3g}"))


def short_bytes(value: int) -> str:
    """A size as 10.6 MB."""
    number, unit = float(value), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if number < 1000:
            break
        number, unit = number / 1000, larger
    return f"{number:.3g} {unit}"
