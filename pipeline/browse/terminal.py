"""Views in a terminal, with rich; every text goes through `visible`, none is read as markup."""

from __future__ import annotations

import json
import sys
from typing import IO, Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from pipeline.browse.views import Bars, Bytes, Cell, Facts, Grid, Marked, Plot, Prose, View
from pipeline.browse.visible import as_number, bars, curve
from pipeline.core.terminal import shortened, size, visible

MOST = 240  # characters of a text in a table
MOST_PROSE = 4000


def print_view(view: View, *, as_json: bool = False, file: IO[str] | None = None) -> None:
    """Show a view, or write it as JSON; a reader that closes the pipe ends it quietly."""
    stream = file or sys.stdout
    try:
        if as_json:
            stream.write(json.dumps(view.to_json(), indent=1, allow_nan=False) + "\n")
        else:
            console = _console(stream)
            console.print(Text(visible(view.title), style="bold"))
            for block in view.blocks:
                console.print()
                for each in _rendered(block, console.width):
                    console.print(each)
        stream.flush()
    except BrokenPipeError:
        sys.stderr.close()  # nobody reads what Python would say of it at its end


def _console(stream: IO[str]) -> Console:
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:  # a terminal that lacks a character shows its code
        reconfigure(errors="backslashreplace")
    width = None if stream.isatty() else 160
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False)


def _rendered(block: Facts | Grid | Prose | Plot, width: int) -> list[RenderableType]:
    if isinstance(block, Facts):
        table = Table.grid(padding=(0, 2))
        for name, value in block.values.items():
            table.add_row(Text(visible(name), style="dim"), _cell(value))
        return [table]
    if isinstance(block, Grid):
        return _table(block)
    if isinstance(block, Prose):
        return [Text(visible(block.title), style="bold"), _prose(block.text)]
    return _plot(block, width)


def _table(block: Grid) -> list[RenderableType]:
    if not block.rows:
        return [Text(f"{visible(block.title)}: none", style="dim")]
    table = Table(
        title=Text(visible(block.title)), title_justify="left", header_style="dim", box=None
    )
    for place, head in enumerate(block.heads):
        column = [row[place] for row in block.rows]
        right = all(isinstance(each, (int, float, Bytes, type(None))) for each in column)
        table.add_column(
            Text(visible(head)),
            justify="right" if right else "left",
            overflow="fold",
            no_wrap=right,
        )
    for row in block.rows:
        table.add_row(*(_cell(each) for each in row))
    return [table, *([Text(block.more, style="dim")] if block.more else [])]


def _cell(value: Cell) -> Text:
    if value is None:
        return Text("–", style="dim")
    if isinstance(value, bool):
        return Text("yes" if value else "no")
    if isinstance(value, (int, float)):
        return Text(as_number(value))
    if isinstance(value, Bytes):
        return Text(size(value.number))
    if isinstance(value, Bars):
        return Text(bars(value.counts))
    if isinstance(value, Marked):
        return _marked(value, keep_lines=False, most=MOST)
    if isinstance(value, (list, tuple, dict)):
        value = json.dumps(value, ensure_ascii=False)
    return Text(shortened(visible(str(value)[: MOST + 1]), MOST))


def _prose(text: str | Marked) -> Text:
    if isinstance(text, Marked):
        return _marked(text, keep_lines=True, most=MOST_PROSE)
    return Text(shortened(visible(text[: MOST_PROSE + 1], keep_lines=True), MOST_PROSE))


def _marked(value: Marked, keep_lines: bool, most: int) -> Text:
    made = Text()
    for piece, marked in value.pieces:
        left = most - len(made)
        if left <= 0:
            break
        shown = shortened(visible(piece[: left + 1], keep_lines), left)
        made.append(f"⟦{shown}⟧" if marked else shown, style="bold green" if marked else "")
    return made


def _plot(block: Plot, width: int) -> list[RenderableType]:
    lines = curve(block.values, width=max(20, min(72, width - 14)))
    if not lines:
        return [Text(f"{visible(block.title)}: no values", style="dim")]
    finite = [each for each in block.values if each == each]
    labels: dict[int, Any] = {0: max(finite), len(lines) - 1: min(finite)}
    made: list[RenderableType] = [Text(visible(block.title))]
    for place, line in enumerate(lines):
        label = as_number(labels[place]) if place in labels else ""
        made.append(Text(f"{label:>10} ┤{line}"))
    made.append(Text(f"{'':>10} └ {as_number(block.first)} to {as_number(block.last)}", "dim"))
    return made
