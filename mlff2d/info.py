"""`mlff2d info`: what a model file is, knows and came from."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from typing import Any

# Nothing heavy above the functions: --help must not wait for torch.

_LONG = ("settings.", "versions.", "data")
"""What only `--json` shows."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.description = (
        "Show what a model file is: architecture and settings, elements, cutoff, and where it "
        "came from: data, errors, origin and licence."
    )
    parser.add_argument(
        "model", nargs="?", help="a model file or the name of a shipped model [universal]"
    )
    parser.add_argument("--json", action="store_true", help="everything, for programs to read")


def run(args: argparse.Namespace) -> int:
    """Print the description. Raises ModelFileError for a file that is no model."""
    from mlff2d.checkpoint import read

    content = read(args.model)
    if args.json:
        rest = {key: value for key, value in content.items() if key not in ("weights", "domain")}
        print(json.dumps(rest, indent=2, ensure_ascii=False))
    else:
        print_description(content)
    return 0


def print_description(content: dict[str, Any]) -> None:
    """A table of what the content of a model file says, as `checkpoint.read` gives it."""
    from rich.console import Console
    from rich.table import Table

    from mlff2d.atoms import symbols

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    n_weights = sum(w.numel() for w in content["weights"].values())
    settings = {k: v for k, v in content["config"].items() if k not in ("elements", "cutoff")}
    elements = [int(z) for z in content["elements"]]
    if content["task"] == "property":
        what = content["property"]
        table.add_row("predicts", f"{what['name']} {what['unit']}".rstrip())
        table.add_row("pooling", what["pooling"])
    table.add_row("architecture", f"{content['model']}, {n_weights:,} numbers")
    table.add_row("settings", ", ".join(f"{k}: {_short(v)}" for k, v in settings.items()))
    table.add_row("cutoff", f"{content['cutoff']:g} Å")
    table.add_row(f"{len(elements)} elements", symbols(elements))
    if "domain" in content:
        n_atoms, n_centres = content["domain"]["n_atoms"], len(content["domain"]["elements"])
        table.add_row("domain", f"{n_atoms:,} training atoms in {n_centres:,} groups")
    for key, value in _lines(content["training"]):
        if not key.startswith(_LONG):
            table.add_row(key, value)
    console = Console(markup=False, highlight=False)
    console.print(table)


def _lines(tree: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, str]]:
    """Nested provenance as dotted keys with short values."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _lines(value, f"{at}{key}.")
        elif value not in ({}, [], None, ""):
            yield f"{at}{key}", _short(value)


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
