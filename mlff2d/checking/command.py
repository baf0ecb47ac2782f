"""`mlff2d check`: whether model files keep to what every potential of slabs must."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

# Nothing heavy above the functions: --help must not wait for torch.
if TYPE_CHECKING:
    from rich.console import Console, JustifyMethod
    from rich.table import Table

    from .checks import Finding
    from .subject import Subject

DESCRIPTION = """\
Check a potential on slabs that mlff2d brings along, of elements that it knows: forces and stress
against differences of the energy, float32 against float64, one slab written in many ways, batches,
and what happens at the cutoff. No data are needed. It tells nothing of how near the potential is to
DFT: that is what `mlff2d evaluate` measures.
"""

EPILOG = """\
shown for each quantity: the largest deviation found, the bound that it must not pass, and where it
was largest. The exit status is 0 where all is fine, 1 where something is wrong, 2 where a file is
no potential.

examples:
  mlff2d check
  mlff2d check runs/first/best.pt imported.pt
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command to a parser."""
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "models",
        metavar="MODEL",
        nargs="*",
        help="model files or names of shipped models [universal]",
    )
    parser.add_argument("--device", help="cpu, cuda, ... (default: a GPU if there is one)")


def run(args: argparse.Namespace) -> int:
    """Check, and show what was found; 1 where something is wrong, else 0.

    Raises ModelFileError for a file that is no potential, and ValueError for a device that is not
    there.
    """
    from rich.console import Console

    from mlff2d import checkpoint

    from .checks import CHECKS
    from .checks import run as run_checks
    from .subject import Subject

    names = args.models or [checkpoint.DEFAULT_MODEL]
    subjects = {name: Subject(checkpoint.load(name), args.device) for name in names}
    console, aside = (Console(markup=False, highlight=False, stderr=x) for x in (False, True))
    fine = True
    for name, subject in subjects.items():
        with aside.status("") as status:
            found = run_checks(subject, CHECKS, lambda check: status.update(f"{name}: {check}"))  # noqa: B023
        fine &= show(console, name, subject, found)
    return 0 if fine else 1


def show(console: Console, name: str, subject: Subject, found: list[Finding]) -> bool:
    """A table of what was found, and a verdict; whether all is fine."""
    from .checks import CHECKS, NO_ANSWER

    console.print(_table(name, found))
    made_up = all("made up" in slab for slab in subject.slabs)
    console.print(
        f"On {', '.join(subject.slabs)}: cells of two units, rattled."
        + (" No bundled material has only elements that the model knows." if made_up else ""),
        soft_wrap=True,
    )
    wrong = {f.check: f.worst for f in found if not f.worst.fine}
    if not wrong:
        console.print(f"{name} is fine in all {len(CHECKS)} checks.\n", soft_wrap=True)
        return True
    console.print(f"{name} is WRONG in {len(wrong)} of {len(CHECKS)} checks:", soft_wrap=True)
    for check, worst in wrong.items():
        why = NO_ANSWER if worst.quantity == NO_ANSWER else CHECKS[check].consequence
        console.print(f"  {check}: {why}.", soft_wrap=True)
    if found[-1].check != list(CHECKS)[-1]:
        console.print("  The checks that follow need numbers, and were not done.")
    console.print("")
    return False


def _table(name: str, found: list[Finding]) -> Table:
    from rich.table import Table

    from .checks import NO_ANSWER

    table = Table(title=name, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for heading in ("check", "largest deviation", "bound", "", "cases", "worst case"):
        justify: JustifyMethod = "right" if heading in ("bound", "cases") else "left"
        table.add_column(heading, justify=justify, no_wrap=heading != "worst case")
    last = ""
    for finding in found:
        worst = finding.worst
        value, bound = f"{worst.quantity} {worst.value:.2g} {worst.unit}", f"{worst.bound:.2g}"
        if worst.quantity == NO_ANSWER:
            value, bound = NO_ANSWER, ""
        table.add_row(
            finding.check if finding.check != last else "",
            value,
            bound,
            "fine" if worst.fine else "WRONG",
            str(finding.cases),
            worst.where,
        )
        last = finding.check
    return table
