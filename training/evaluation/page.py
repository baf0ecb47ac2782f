"""One HTML page that holds everything: no script, picture or font from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from mlff2d.files import write_text

from .plots import Plot
from .tables import Table

SHOWN_ROWS = 200
"""Of a long table so many rows are on the page; all are in its CSV file."""


@dataclass
class Page:
    """What the page shows, collected section by section."""

    title: str
    facts: dict[str, str]
    notes: list[str]
    bodies: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)

    def add(
        self,
        key: str,
        title: str,
        lines: Sequence[str],
        tables: Sequence[Table] = (),
        plots: Sequence[Plot] = (),
        folded: Sequence[Table] = (),
    ) -> None:
        """Append a section: its sentences, its tables, the figures, and tables to be opened."""
        parts = [f"<h2 id='{key}'>{escape(title)}</h2>"]
        parts += [_paragraph(line) for line in lines]
        parts += [_table(table, key) for table in tables]
        parts += [_figure(plot) for plot in plots]
        parts += [_folded(table, key) for table in folded]
        self.bodies.append("\n".join(parts))
        self.links.append(f"<a href='#{key}'>{escape(title)}</a>")


def write_page(page: Page, path: Path) -> None:
    """Write the page to a file."""
    facts = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>"
        for name, value in page.facts.items()
    )
    notes = "".join(_paragraph(note, True) for note in page.notes)
    write_text(
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{escape(page.title)}</title><style>{_STYLE}</style></head><body><main>"
        f"<h1>{escape(page.title)}</h1>{notes}<table class='facts'>{facts}</table>"
        f"<nav>{' · '.join(page.links)}</nav>\n"
        + "\n".join(page.bodies)
        + f"</main><script>{_SCRIPT}</script></body></html>\n",
        path,
    )


def _figure(plot: Plot) -> str:
    data = base64.b64encode(plot.image).decode()
    width = round(96 * plot.figure.get_size_inches()[0])
    return (
        f"<figure><img width='{width}' alt='{escape(plot.caption, quote=True)}' "
        f"src='data:image/png;base64,{data}'>"
        f"<figcaption>{escape(plot.caption)} <code>{escape(plot.key)}.png</code></figcaption>"
        "</figure>"
    )


def _paragraph(text: str, is_note: bool = False) -> str:
    loud = is_note or text.startswith("ENERGIES MOVED")
    return f"<p{' class=note' if loud else ''}>{escape(text)}</p>"


def _folded(table: Table, section: str) -> str:
    return (
        f"<details><summary>{escape(table.title)} ({len(table.rows):,} rows)</summary>"
        f"{_table(table, section, title=False)}</details>"
    )


def _table(table: Table, section: str, title: bool = True) -> str:
    numbers = [table.is_number(column) for column in range(len(table.columns))]
    head = "".join(f"<th>{escape(name)}</th>" for name in table.columns)
    rows = []
    for row in table.rows[:SHOWN_ROWS]:
        cells = [
            f"<td{' class=n' if number else ''}>{escape(table.text(column, cell))}</td>"
            for column, (number, cell) in enumerate(zip(numbers, row, strict=True))
        ]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    more = len(table.rows) - SHOWN_ROWS
    note = f"{more:,} more rows are in the file. " if more > 0 else ""
    return (
        (f"<h3>{escape(table.title)}</h3>" if title else "")
        + f"<div class='wide'><table class='sortable'><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
        f"<p class='small'>{escape(table.note)} {note}"
        f"<code>{escape(section)}-{escape(table.key)}.csv</code></p>"
    )


_STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1c; --paper: #fff; --line: #d6d6d6;
  --soft: #666; --note: #fff4d6; --stripe: #f6f6f6; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --paper: #16181b; --line: #3a3d42;
  --soft: #a0a0a0; --note: #4a3c12; --stripe: #1e2125; } }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Helvetica, Arial, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 1.5rem; }
h1 { font-size: 1.7rem; } h2 { margin-top: 3rem; border-bottom: 1px solid var(--line); }
h3 { margin-bottom: .4rem; } a { color: inherit; }
.note { background: var(--note); padding: .7rem 1rem; border-radius: 4px; }
.small, figcaption { color: var(--soft); font-size: .85rem; }
.wide { overflow: auto; max-height: 34rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .88rem; }
th, td { padding: .25rem .7rem; text-align: left; border-bottom: 1px solid var(--line);
  vertical-align: top; }
.sortable thead th { position: sticky; top: 0; background: var(--paper); cursor: pointer;
  white-space: normal; }
.sortable tbody tr:nth-child(even) { background: var(--stripe); }
td.n { text-align: right; white-space: nowrap; }
figure { margin: 1.6rem 0; } img { max-width: 100%; height: auto; background: #fff;
  border-radius: 4px; }
details { margin: .6rem 0; } summary { cursor: pointer; font-weight: 600; }
"""

_SCRIPT = """
for (const table of document.querySelectorAll('table.sortable')) {
  const number = cell => {
    const text = cell.textContent.replace(/,/g, '');
    return text === '' || isNaN(text) ? null : Number(text);
  };
  table.tHead.rows[0].querySelectorAll('th').forEach((head, column) => {
    let up = false;
    head.title = 'sort';
    head.addEventListener('click', () => {
      up = !up;
      const sign = up ? 1 : -1;
      const rows = [...table.tBodies[0].rows];
      rows.sort((first, second) => {
        const a = first.cells[column], b = second.cells[column];
        const x = number(a), y = number(b);
        if (x !== null && y !== null) return sign * (x - y);
        if (x !== null) return -1;
        if (y !== null) return 1;
        return sign * a.textContent.localeCompare(b.textContent);
      });
      table.tBodies[0].append(...rows);
    });
  });
}
"""
