"""Judge a universal potential, and write the measured part of its card.

    python -m benchmarks.universal_card MODEL.pt --teacher TEACHER.pt --data labelled.h5 \\
        --pbe frames.extxyz --structures monolayers.extxyz.gz -o card.md

Writes the card as Markdown, and beside it its numbers as JSON and, in a folder, what was measured
and the figures. The same command goes on where it was stopped; what was measured of the teacher is
used again for another model with the same --kept.

parts:
  direct      errors against the teacher's labels on held-out materials, by kind of frame
  relaxation  energies and areas after relaxation of held-out materials, beside the teacher's
  pbe         errors against frames of DFT, beside the teacher's
  lattice     lattice constants of well-known monolayers, beside PBE
  strain      energies and tensions from -15 to 15 % of strain, beside the teacher's
  dimers      two atoms alone, of every pair of elements
  md          monolayers at 1000 K
  speed       beside the teacher
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.card.common import (
    MODEL,
    TEACHER,
    Job,
    Kept,
    Options,
    PartResult,
    Subject,
    markdown,
)
from mlff2d.arguments import positive_count, positive_number
from mlff2d.files import write_text
from mlff2d.training.data.convert import file_digest
from mlff2d.training.evaluation.tables import Cell, Table

PARTS: dict[str, tuple[str, ...]] = {
    "direct": ("data", "source", "n_direct"),
    "relaxation": ("structures", "data", "n_relax", "max_atoms"),
    "pbe": ("pbe",),
    "lattice": (),
    "strain": ("structures", "n_strain"),
    "dimers": ("dimer_step",),
    "md": ("structures", "n_md", "md_steps", "skip_teacher_md"),
    "speed": ("threads", "device"),
}
"""Every part, and the options that it depends on beside the two models."""

OPTIONAL = {("direct", "source"), ("relaxation", "data")}
"""Files that a part makes use of and does without."""

SUMMARY: list[tuple[str, str, tuple[str, ...]]] = [
    ("energy, MAE (meV/atom)", "towards 6", ("direct", "energy all", MODEL)),
    ("forces, MAE (meV/Å)", "towards 80", ("direct", "forces all", MODEL)),
    ("in-plane stress, MAE (N/m)", "", ("direct", "stress all", MODEL)),
    ("slope of the forces", "1", ("direct", "directions all model", "slope")),
    ("energy after relaxation, MAE (meV/atom)", "20 (fast: 40)", ("relaxation", "energy", "mae")),
    ("area after relaxation, MAE (Å²/atom)", "0.2 (fast: 0.35)", ("relaxation", "area", "mae")),
    ("relaxations that converge (%)", "", ("relaxation", f"converged {MODEL}")),
    ("forces on PBE frames, MAE (meV/Å)", "", ("pbe", "forces all", MODEL)),
    ("the same over the teacher's", "at most 1.2", ("pbe", "forces model / teacher")),
    ("lattice constants off PBE, mean (%)", "", ("lattice", MODEL, "mean |%|")),
    ("strain energies, MAE (meV/atom)", "", ("strain", "mae")),
    ("pairs that attract at short range", "0", ("dimers", MODEL, "attracted")),
    ("pairs with a hole", "0", ("dimers", MODEL, "holes")),
    ("survive 1000 K (%)", "", ("md", MODEL, "share (%)")),
    ("ms/atom, 75 atoms", "", ("speed", "75", "model, ms/atom")),
    ("times faster than the teacher", "", ("speed", "75", "teacher / model")),
]
"""Rows of the summary: what, what is aimed at, and where it is in the figures of the parts."""

_VERSION = 1  # raised when the parts measure something else


def measure(job: Job, part: str) -> PartResult:
    """Measure one part."""
    from benchmarks.card import dimers, direct, hot, lattice, relaxation, speed, strain

    measures: dict[str, Callable[[Job], PartResult]] = {
        "direct": direct.against_teacher,
        "relaxation": relaxation.after_relaxation,
        "pbe": direct.against_pbe,
        "lattice": lattice.lattice_constants,
        "strain": strain.under_strain,
        "dimers": dimers.of_all_pairs,
        "md": hot.at_1000_k,
        "speed": speed.speed,
    }
    return measures[part](job)


def key_of(job: Job, part: str) -> list[Any]:
    """What the result of a part depends on."""
    given: dict[str, Any] = {}
    for name in PARTS[part]:
        value = getattr(job.options, name)
        given[name] = [file_digest(p) for p in value] if isinstance(value, list) else value
    return [_VERSION, part, job.model.sha256, job.teacher.sha256, given]


def lacks(options: Options, part: str) -> str | None:
    """The option without which a part cannot be measured, where it was not given."""
    for name in PARTS[part]:
        if (part, name) not in OPTIONAL and getattr(options, name) == []:
            return f"--{name}"
    return None


def run(options: Options, output: Path, kept: Kept, parts: Sequence[str]) -> dict[str, Any]:
    """Measure parts that are not kept, and write the card of all that are; its numbers.

    A part that fails says why in the card, and ends nothing else.
    """
    job = Job(
        options,
        Subject(MODEL, options.model, options.device),
        Subject(TEACHER, options.teacher, options.device),
        kept,
    )
    results: dict[str, PartResult] = {}
    failed: dict[str, str] = {}
    for part in PARTS:
        if missing := lacks(options, part):
            failed[part] = f"not measured: {missing} was not given"
            continue
        path = kept.path(part, key_of(job, part))
        if not path.exists() and part in parts:
            job.note(f"{part} ...")
            began, cpu = time.perf_counter(), time.process_time()
            try:
                result = measure(job, part)
            except (ValueError, OSError) as error:  # one part that fails does not end the others
                failed[part] = f"FAILED: {' '.join(str(error).split())}"
                job.note(f"{part}: {failed[part]}")
                continue
            result.seconds = round(time.perf_counter() - began, 1)
            result.cpu_s = round(time.process_time() - cpu, 1)
            write_text(json.dumps(asdict(result), indent=1), path)
        if path.exists():
            results[part] = _read(path)
        else:
            failed[part] = f"not measured yet: run it with --part {part}"
        write_card(job, output, results, failed)
    return write_card(job, output, results, failed)


def _read(path: Path) -> PartResult:
    found = json.loads(path.read_text(encoding="utf-8"))
    tables = [Table(**table) for table in found.pop("tables")]
    return PartResult(tables=tables, **found)


def write_card(
    job: Job, output: Path, results: dict[str, PartResult], failed: dict[str, str]
) -> dict[str, Any]:
    """Write Markdown and JSON of what there is; the numbers."""
    model, teacher = job.subjects
    n_weights = sum(p.numel() for p in model.single.parameters())
    lines = [
        f"# Measured: `{model.path.name}`",
        "",
        f"`{model.content['model']}`, {n_weights:,} weights, sha256 {model.sha256[:12]}; teacher "
        f"`{teacher.path.name}` (`{teacher.content['model']}`, sha256 {teacher.sha256[:12]}). "
        "Written by `python -m benchmarks.universal_card`.",
        "",
    ]
    if summary := summary_of(results):
        lines += [markdown(summary)]
    for result in results.values():
        lines += [f"## {result.title}", "", *[f"{line}\n" for line in result.lines]]
        lines += [markdown(table) for table in result.tables]
        for image in result.images:
            shown = kept_name(job.kept.folder, output) + image
            lines += [f"![{result.title}]({shown})", ""]
        lines += [f"({result.seconds:.0f} s, {result.cpu_s:.0f} s of a core)", ""]
    if failed:
        lines += ["## Not in this card", "", *[f"- {p}: {why}" for p, why in failed.items()], ""]
    write_text("\n".join(lines), output)
    numbers = {
        "model": {"file": model.path.name, "sha256": model.sha256, "weights": n_weights},
        "teacher": {"file": teacher.path.name, "sha256": teacher.sha256},
        "parts": {part: result.figures for part, result in results.items()},
        "seconds": {part: result.seconds for part, result in results.items()},
        "failed": failed,
    }
    write_text(json.dumps(numbers, indent=1), output.with_suffix(".json"))
    return numbers


def summary_of(results: dict[str, PartResult]) -> Table | None:
    """What is asked of a universal model, as far as it was measured."""
    rows: list[list[Cell]] = []
    for label, aim, (part, *names) in SUMMARY:
        value: Any = results[part].figures if part in results else None
        for name in names:
            value = value.get(name) if isinstance(value, dict) else None
        if value is not None:
            rows.append([label, f"{value:.3g}", aim])
    columns = ["on what the model never saw", "measured", "aim"]
    return Table("summary", "", columns, rows, right=columns[1:2]) if rows else None


def kept_name(folder: Path, output: Path) -> str:
    """The folder of the figures as the card, which may lie elsewhere, links to it."""
    near = folder.resolve().parent == output.resolve().parent
    return f"{folder.name if near else folder.resolve()}/"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("model", help="model file, or the name of a shipped model")
    add("--teacher", required=True, help="model file of the teacher")
    add("--data", nargs="+", type=Path, default=[], help="frames that the teacher labelled")
    add(
        "--source",
        nargs="+",
        type=Path,
        default=[],
        help="files that HDF5 files of --data were built of; the kind of a frame (mode) is there",
    )
    add("--pbe", nargs="+", type=Path, default=[], help="frames labelled by DFT")
    add("--structures", nargs="+", type=Path, default=[], help="monolayers near equilibrium")
    add("-o", "--output", type=Path, default=Path("card.md"))
    add("--kept", type=Path, help="folder of what was measured (default: <output>.parts)")
    add("--part", nargs="+", choices=list(PARTS), default=list(PARTS), metavar="PART")
    add("--n-direct", type=positive_count, default=4000, help="frames (default 4000)")
    add("--n-relax", type=positive_count, default=150, help="relaxations by each (default 150)")
    add("--max-atoms", type=positive_count, default=12, help="of a relaxed structure (default 12)")
    add("--n-strain", type=positive_count, default=10, help="monolayers (default 10)")
    add("--n-md", type=positive_count, default=10, help="monolayers (default 10)")
    add(
        "--md-steps",
        type=positive_count,
        default=300,
        help="with a thermostat and without (default 300)",
    )
    add("--skip-teacher-md", action="store_true", help="the teacher takes the longest there")
    add("--dimer-step", type=positive_number, default=0.1, help="Å (default 0.1)")
    add("--device", default="cpu")
    add("--threads", type=positive_count, default=2)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    args = parse(arguments)
    torch.set_num_threads(args.threads)
    kept = Kept(args.kept or args.output.with_suffix(".parts"))
    names = set(Options.__dataclass_fields__)
    options = Options(**{name: value for name, value in vars(args).items() if name in names})
    try:
        for path in (*options.data, *options.source, *options.pbe, *options.structures):
            if not path.exists():
                raise ValueError(f"{path}: there is no such file")
        numbers = run(options, args.output, kept, args.part)
    except KeyboardInterrupt:
        print("Interrupted; the same command goes on.", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        print(f"universal_card: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(f"{args.output}: {len(numbers['parts'])} parts of {len(PARTS)}")
    return 1 if any(why.startswith("FAILED") for why in numbers["failed"].values()) else 0


if __name__ == "__main__":
    sys.exit(main())
