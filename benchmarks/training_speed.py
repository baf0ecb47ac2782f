"""Frames per second of training, beside the packages that the architectures come from.

    bash benchmarks/peers/environments.sh peers
    python -m benchmarks.training_speed teacher.extxyz.gz --environments peers [-o speed.json]

Ours and the peer train the same architecture with the same hyperparameters on the same frames in
the same batches: energies, forces and stress, backward pass, gradients clipped, a step of Adam, and
the running mean of the weights where the peer has one. Each program stays alive in a process of
its own, and they take turns: a turn is a pass over all frames, the first does not count. Every
program makes its neighbour lists beforehand, so that what is timed is training. The table has
medians, with the smallest and the largest in brackets.

The sizes are those of the thesis that this project follows: M3GNet "out of the box"; MACE with its
standard configuration and features up to L = 2, of which it names both 32 and 192 channels
(`mace-192` is the other reading). It names no sizes for NequIP, which has those of nequip's own
tutorial, with natural parities alone; and has no PaiNN, which has those of its paper. All cutoffs
are 5 Å. Models with a hyphen are measured when named: `nequip-compiled` is nequip through
torch.compile, `mace-default` mace-torch without cuequivariance's smaller product basis.
"""

import argparse
import gzip
import io
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import ase
import ase.io
import numpy as np

from benchmarks.programs import FOLDER, Program, machine, median

PEERS = {
    "m3gnet": "matgl",
    "painn": "schnetpack",
    "nequip": "nequip",
    "nequip-compiled": "nequip",
    "mace": "mace",
    "mace-default": "mace",
    "mace-192": "mace",
}
DEFAULT = ("m3gnet", "painn", "nequip", "mace")


def sample(source: Path, target: Path, n_frames: int, max_force: float = 20.0) -> None:
    """Write a fixed random choice of frames of an extxyz file, slabs made periodic along z.

    Several peers get mixed periodicity wrong; 15 Å of vacuum make it the same to all.
    """
    opener = gzip.open if source.suffix == ".gz" else open
    with opener(source, "rt") as file:
        lines = file.read().split("\n")
    starts, at = [], 0
    while at < len(lines) and lines[at].strip():
        starts.append(at)
        at += int(lines[at]) + 2
    frames = []
    for k in np.random.default_rng(0).permutation(len(starts)):
        block = lines[starts[k] : starts[k] + int(lines[starts[k]]) + 2]
        atoms = ase.io.read(io.StringIO("\n".join(block)), format="extxyz")
        assert isinstance(atoms, ase.Atoms)
        if np.abs(atoms.get_forces()).max() <= max_force:
            atoms.pbc = True
            frames.append(atoms)
        if len(frames) == n_frames:
            break
    if len(frames) < n_frames:
        raise SystemExit(f"{source} has {len(frames)} usable frames; give a smaller --frames")
    ase.io.write(target, frames)


def measure(name: str, args: argparse.Namespace, frames: Path, folder: Path) -> dict[str, Any]:
    """Turns of ours and of the peer by themselves, alternately."""
    options = ["--batch-size", str(args.batch_size), "--threads", str(args.threads)]
    python = args.environments / PEERS[name] / "bin" / "python"
    commands = {
        "ours": [sys.executable, str(FOLDER / "train_ours.py")],
        "peer": [str(python), str(FOLDER / f"train_{PEERS[name]}.py")],
    }
    logs = {who: folder / f"{name}-{who}.log" for who in commands}
    programs = {
        who: Program.start(
            f"{name} ({who})", [*command, name, str(frames), *options], logs[who], args.threads
        )
        for who, command in commands.items()
    }
    facts = [program.facts for program in programs.values()]
    for key in ("frames", "edges"):
        if facts[0][key] != facts[1][key]:
            raise SystemExit(f"{name}: {facts[0][key]} {key} in ours, {facts[1][key]} in the peer")
    answers: dict[str, list[dict[str, Any]]] = {who: [] for who in programs}
    for _ in range(args.rounds + 1):
        for who, program in programs.items():
            answers[who].append(program.turn())
    for program in programs.values():
        program.stop()
    return {"settings": settings_of(args)} | {
        who: program.facts
        | {
            "frames_per_second": [
                program.facts["frames"] / answer["seconds"] for answer in answers[who][1:]
            ],
            "first_turn_seconds": answers[who][0]["seconds"],
            "peak_memory_mb": answers[who][-1]["memory"],
        }
        for who, program in programs.items()
    }


def settings_of(args: argparse.Namespace) -> dict[str, int]:
    """What a figure depends on."""
    return {key: getattr(args, key) for key in ("frames", "batch_size", "rounds", "threads")}


def row(name: str, result: dict[str, Any]) -> str:
    """One line of the table."""
    ours, peer = result["ours"], result["peer"]
    ratio = np.median(ours["frames_per_second"]) / np.median(peer["frames_per_second"])
    cells = (
        f"`{name}`",
        peer["package"],
        f"{ours['parameters']:,}",
        f"{peer['parameters']:,}",
        median(ours["frames_per_second"]),
        median(peer["frames_per_second"]),
        f"{ratio:.2f}",
        f"{ours['peak_memory_mb'] / 1024:.2f}",
        f"{peer['peak_memory_mb'] / 1024:.2f}",
    )
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="extxyz file with energies, forces and stress")
    parser.add_argument("--environments", type=Path, required=True, help="of environments.sh")
    parser.add_argument("--models", nargs="+", choices=PEERS, default=DEFAULT)
    parser.add_argument("--frames", type=int, default=320, help="in a turn, of every program")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5, help="turns that count, of each")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path, help="JSON; models in it are not run again")
    args = parser.parse_args()
    if args.frames % args.batch_size:
        parser.error("--frames must be a multiple of --batch-size, as all batches are equal")
    args.environments = args.environments.absolute()
    report: dict[str, Any] = {"machine": machine(), "models": {}}
    if args.output and args.output.exists():
        report = json.loads(args.output.read_text())
    with tempfile.TemporaryDirectory() as folder:
        frames = Path(folder) / "frames.extxyz"
        sample(args.data, frames, args.frames)
        for name in args.models:
            if name in report["models"]:
                if report["models"][name]["settings"] != settings_of(args):
                    raise SystemExit(f"{args.output} has {name} with other settings; give another")
                continue
            report["models"][name] = measure(name, args, frames, Path(folder))
            if args.output:
                args.output.write_text(json.dumps(report, indent=1) + "\n")
    print(
        "| model | peer | parameters | peer's | frames/s | peer's frames/s | ratio | GiB | peer's |"
    )
    print("| --- " * 9 + "|")
    for name, result in report["models"].items():
        print(row(name, result))
    settings = result["settings"]
    print(
        f"\n{report['machine']['cpu']}, {settings['threads']} threads, float32, batches of "
        f"{settings['batch_size']}; medians of {settings['rounds']} turns (smallest–largest) of "
        f"{settings['frames']} frames; GiB is the most memory that a process had."
    )


if __name__ == "__main__":
    main()
