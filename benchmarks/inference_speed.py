"""Milliseconds for energy, forces and stress, beside the packages that the architectures come from.

    bash benchmarks/peers/environments.sh peers
    python -m benchmarks.inference_speed --environments peers --checkpoints FOLDER [-o speed.json]

Supercells of a MoS2 monolayer, float32, through each package's own ASE calculator, the atoms moved
before every call, so that neighbour lists are part of the time. Ours has the peer's weights: it
must give its energies, forces and in-plane stress, else the case ends. Each program stays alive in
a process of its own and they take turns; medians over all calls, with the smallest and the largest
in brackets. A program that stops, for want of memory say, has no figure from there on.

`painn`: 128 features, 3 blocks, 6 Å. `mace` and `mace-vectors`: 128x0e and 128x0e+128x1o, l up to
3, correlation 3, 2 layers, 6 Å. `nequip`: l up to 2, 64 channels, 4 layers, 6 Å. `sevennet`: the
architecture of SevenNet-0. These have random weights. `nequix`: the public nequix-oam-1-pft.
`universal` is the model that ships, which has no peer.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.programs import FOLDER, Program, Stopped, machine

CASES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "painn": ("schnetpack", "painn.pt", ("eager",)),
    "mace": ("mace", "mace.model", ("eager", "compiled", "cueq")),
    "mace-vectors": ("mace", "mace-vectors.model", ("eager", "compiled", "cueq")),
    "nequip": ("nequip", "nequip.pt", ("eager", "compiled")),
    "sevennet": ("sevenn", "sevennet.pth", ("eager",)),
    "nequix": ("nequix", "nequix-oam-1-pft.nqx", ("eager", "jax")),
    "universal": ("", "", ()),
}
"""Environment of the peer, file of its weights, and the ways in which it computes."""

ALIKE = 1e-3
"""Part of the greatest force, or stress, by which ours and a peer may differ in float32."""

TURN = 1000.0
"""Milliseconds that a turn shall take, where one call does not take more."""


def start(case: str, args: argparse.Namespace, folder: Path) -> dict[str, Program]:
    """The peer's programs and, with the weights that they wrote, ours."""
    peer, file, ways = CASES[case]
    wanted = [way for way in ways if way not in args.skip]
    programs = {}
    for who, way in [*((peer, way) for way in wanted), ("ours", "eager"), ("ours", "compiled")]:
        own = folder / f"{case}-{who}-{way}"
        own.mkdir()
        weights = own / file
        if who == "ours" and wanted:  # it reads what the peer's first program wrote
            weights = folder / f"{case}-{peer}-{wanted[0]}" / file
        python = sys.executable if who == "ours" else args.environments / peer / "bin" / "python"
        command = [str(python), str(FOLDER / f"call_{who}.py"), case, way, str(weights)]
        command += ["--threads", str(args.threads)]
        if args.checkpoints is not None:
            command += ["--checkpoints", str(args.checkpoints)]
        label = f"{case} {way} ({who})"
        log = own / "log.txt"
        try:
            programs[f"{who} {way}"] = Program.start(
                label, command, log, args.threads, args.gigabytes
            )
        except Stopped as stopped:
            print(stopped, file=sys.stderr)
            if who == "ours" or way == wanted[0]:
                raise SystemExit(1) from None
    return programs


def deviation(found: dict[str, Any], expected: dict[str, Any]) -> float:
    """The greatest of energy, forces and in-plane stress, in parts of the greatest of each."""
    parts = []
    for key in ("energy", "forces", "stress"):
        f, e = np.array(found[key]), np.array(expected[key])
        parts.append(np.abs(f - e).max() / np.abs(e).max())
    return float(max(parts))


def measure(case: str, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Turns of all programs at every size, alternately."""
    programs = start(case, args, folder)
    alive = dict(programs)
    result: dict[str, Any] = {
        who: program.facts | {"milliseconds": {}, "peak_memory_mb": {}, "deviation": {}}
        for who, program in programs.items()
    }
    for size in args.sizes:
        calls: dict[str, int] = {}
        first: dict[str, Any] = {}
        for _ in range(args.rounds + 1):
            for who in list(alive):
                try:
                    answer = alive[who].turn(f"{size} {calls.get(who, 2 if size < 500 else 1)}")
                except Stopped as stopped:
                    print(stopped, file=sys.stderr)
                    del alive[who]
                    continue
                times = answer["milliseconds"]
                if who not in calls:  # it warms up, and says how long a call takes
                    calls[who] = int(np.clip(TURN / min(times), 1, 20))
                    first[who] = answer
                    result[who]["milliseconds"][size] = []
                    continue
                result[who]["milliseconds"][size] += times
                result[who]["peak_memory_mb"][size] = answer["memory"]
        for who, answer in first.items():
            far = deviation(answer, next(iter(first.values())))
            if not far < ALIKE:
                raise SystemExit(f"{case}: {who} differs by {far:.1e} at {size} atoms")
            result[who]["deviation"][size] = far
    for program in alive.values():
        program.stop()
    return result


def cell(times: list[float], fastest: float) -> str:
    """Median, smallest and largest, and how many times as long as ours."""
    middle = float(np.median(times))
    ratio = f", {middle / fastest:.1f}x" if middle != fastest else ""
    digits = 1 if middle < 100 else 0
    spread = f"{min(times):.{digits}f}–{max(times):.{digits}f}"
    return f"{middle:.{digits}f} ({spread}){ratio}"


def rows(case: str, result: dict[str, Any], sizes: list[str]) -> list[str]:
    """The lines of a case, ours first."""
    ours = next((who for who in ("ours compiled", "ours eager") if who in result), None)
    lines = []
    for who in sorted(result, key=lambda who: not who.startswith("ours")):
        facts = result[who]
        cells = [f"`{case}`", f"{facts['package']} {who.split()[1]}"]
        for size in sizes:
            times = facts["milliseconds"].get(size)
            mine = result[ours]["milliseconds"].get(size) if ours else None
            cells.append(cell(times, float(np.median(mine))) if times and mine else "–")
        memory = [facts["peak_memory_mb"].get(size) for size in sizes]
        known = [m for m in memory if m is not None]
        cells.append(f"{known[-1] / 1024:.2f}" if known and memory[-1] is not None else "–")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--environments", type=Path, help="of peers/environments.sh")
    parser.add_argument("--checkpoints", type=Path, help="folder with nequix-oam-1-pft.nqx")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument(
        "--skip",
        nargs="+",
        default=[],
        help="ways of peers: compiled, cueq, jax; some take minutes",
    )
    parser.add_argument("--sizes", nargs="+", type=int, default=[3, 12, 75, 768])
    parser.add_argument("--rounds", type=int, default=5, help="turns that count, of each")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--gigabytes", type=float, default=0.0, help="address space of a program")
    parser.add_argument("-o", "--output", type=Path, help="JSON; cases in it are not run again")
    args = parser.parse_args()
    if args.environments is None and args.cases != ["universal"]:
        parser.error("--environments says where the peers are; only 'universal' needs none")
    settings = {key: getattr(args, key) for key in ("skip", "sizes", "rounds", "threads")}
    report: dict[str, Any] = {"machine": machine(), "settings": settings, "cases": {}}
    if args.output and args.output.exists():
        report = json.loads(args.output.read_text())
        if report["settings"] != settings:
            raise SystemExit(f"{args.output} has other settings; give another")
    with tempfile.TemporaryDirectory() as folder:
        for case in args.cases:
            if case not in report["cases"]:
                result = measure(case, args, Path(folder))
                # As it comes out of a file
                report["cases"][case] = json.loads(json.dumps(result))
                if args.output:
                    args.output.write_text(json.dumps(report, indent=1) + "\n")
    sizes = [str(size) for size in args.sizes]
    print("| model | program | " + " | ".join(f"{size} atoms" for size in sizes) + " | GiB |")
    print("| --- " * (len(sizes) + 3) + "|")
    for case, result in report["cases"].items():
        print("\n".join(rows(case, result, sizes)))
    print(
        f"\nMilliseconds, {report['machine']['cpu']}, {args.threads} threads; medians (smallest–"
        "largest) and times as long as ours; GiB is the most memory that a process had."
    )


if __name__ == "__main__":
    main()
