"""The program `mlff2d`: it finds the command and hands over.

Only the chosen command is loaded, and what it computes with only when it runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, Protocol

from mlff2d.errors import nearest

ABOUT = "Machine-learned interatomic potentials for two-dimensional materials."

COMMANDS = {
    "active": "rounds of finding, labelling and learning the frames that teach most",
    "alloy": "formation energies of an alloy: potentials beside cluster expansions",
    "analyse": "what trajectories show: means, distances, diffusion, ripples",
    "check": "check a potential: derivatives, precision, vacuum, symmetry, cutoff",
    "data": "build, merge and describe sets of labelled structures to train on",
    "domain": "add to a model file where its training set is",
    "evaluate": "judge a model on labelled structures, beside baselines and other models",
    "finetune": "train a model further on new data, and report what was learnt and forgotten",
    "generate": "make structures to label: alloys, rattled frames, prototypes, random crystals",
    "import": "turn another package's checkpoint into a model file",
    "info": "show what a model file is and where it came from",
    "label": "compute energies, forces and stress of structures, by DFT or a model",
    "md": "let monolayers move at a temperature: molecular dynamics",
    "predict": "predict the property that a model was trained on",
    "relax": "relax monolayers: their atoms and their cell in the plane",
    "train": "train a model of energies, forces and stress, or of a property",
}


class Command(Protocol):
    """What a command is: its arguments, and what it does with them."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Describe the command to a parser."""

    def run(self, args: argparse.Namespace) -> int:
        """Do it; the exit status."""


class _Parser(argparse.ArgumentParser):
    """Names the nearest option for a misspelt one, and asks for --help rather than printing it."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog=prog, allow_abbrev=False)

    def parse_strictly(self, argv: Sequence[str]) -> argparse.Namespace:
        args, unknown = self.parse_known_intermixed_args(argv)
        if unknown:
            options = [o for o in self._option_string_actions if o.startswith("--")]
            hint = nearest(unknown[0], options) if unknown[0].startswith("-") else ""
            self.error(f"{unknown[0]!r} is not understood.{hint}")
        return args

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message.rstrip('.')}. See {self.prog} --help.\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run `mlff2d COMMAND ...` and return the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] == ["--version"]:
        from importlib.metadata import version

        print(f"mlff2d {version('mlff2d')}")
        return 0
    if argv[:1] == ["data"]:
        from mlff2d.training.data import command as data

        return _choose("mlff2d data", data.ABOUT, data.COMMANDS, data.load, argv[1:])
    if argv[:1] == ["generate"]:
        from mlff2d.training.generation import command as generate

        generate.mover = _move_many
        about, kinds = generate.ABOUT, generate.COMMANDS
        return _choose("mlff2d generate", about, kinds, generate.load, argv[1:])
    if argv[:2] == ["active", "pick"]:
        from mlff2d.training.active import pick_command

        return _run(pick_command, "mlff2d active pick", argv[2:])
    return _choose("mlff2d", ABOUT, COMMANDS, _load, argv)


def relax_main(argv: Sequence[str] | None = None) -> int:
    """Run `mlff2d-relax ...`, the same as `mlff2d relax ...`."""
    return _run(_load("relax"), "mlff2d-relax", sys.argv[1:] if argv is None else argv)


def _choose(
    prog: str,
    about: str,
    commands: Mapping[str, str],
    load: Callable[[str], Command],
    argv: Sequence[str],
) -> int:
    """Run the command that is named first."""
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview(prog, about, commands))
        return 0 if argv else 2
    name = argv[0]
    if name not in commands:
        print(f"{prog}: there is no command {name!r}.{nearest(name, commands)}", file=sys.stderr)
        return 2
    return _run(load(name), f"{prog} {name}", argv[1:])


def _run(command: Command, prog: str, argv: Sequence[str]) -> int:
    parser = _Parser(prog)
    command.add_arguments(parser)
    parser.add_argument("--debug", action="store_true", help="show where an error arose")
    args = parser.parse_strictly(argv)
    try:
        return int(command.run(args))
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:  # StructureError and ModelFileError are ValueErrors
        if args.debug:
            raise
        print(f"{prog}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _load(name: str) -> Command:
    if name == "active":
        from mlff2d.training.active import command as active

        active.relaxer, active.mover = _relax_many, _move_many
        return active
    if name == "alloy":
        from mlff2d.training.alloys import command as alloy

        alloy.relaxer, alloy.sampler = _relax_many, _swap_many
        return alloy
    if name == "analyse":
        from mlff2d.md.analysis import command as analyse

        return analyse
    if name == "check":
        from mlff2d.checking import command as check

        return check
    if name == "domain":
        from mlff2d.training.domain import command as domain

        return domain
    if name == "evaluate":
        from mlff2d.training.evaluation import command as evaluate

        evaluate.relaxer = _relax_many
        return evaluate
    if name == "finetune":
        from mlff2d.training.finetuning import command as finetune

        return finetune
    if name == "import":
        from mlff2d.importers import command as importing

        return importing
    if name == "info":
        from mlff2d import info

        return info
    if name == "label":
        from mlff2d.training.labelling import command as label

        label.relaxer = _relaxer_of_one
        return label
    if name == "md":
        from mlff2d.md.dynamics import command as md

        return md
    if name == "predict":
        from mlff2d import predict

        return predict
    if name == "relax":
        from mlff2d.md.screen import command as relax

        return relax
    from mlff2d.training import command as train

    return train


def _relaxer_of_one() -> Any:
    """What relaxes one structure with any calculator, for the workers of `mlff2d label`."""
    from mlff2d.md.relaxation.relax import relax_with

    return relax_with


def _move_many(structures: Any, potential: Any, output: Any, **settings: Any) -> Any:
    """What moves, for `active` and `generate hot`: frames, reasons of a stop, a signal."""
    from mlff2d.md.dynamics.collect import move_many

    return move_many(structures, potential, output, **settings)


def _relax_many(structures: Any, potential: Any, **settings: Any) -> Any:
    """What relaxes many, for commands of training: that does not know md, nor need it wait."""
    from mlff2d.md.relaxation.batch import relax_many
    from mlff2d.md.relaxation.settings import RelaxSettings

    return relax_many(structures, potential, RelaxSettings(**settings))


def _swap_many(
    structures: Any,
    species: Any,
    potential: Any,
    output: Any,
    relax: Any,
    progress: Any,
    **settings: Any,
) -> Any:
    """Monte Carlo with a potential, for `alloy`; see `mlff2d.training.alloys.montecarlo`."""
    from mlff2d.md.montecarlo.settings import SwapSettings
    from mlff2d.md.montecarlo.swap import swap_monte_carlo
    from mlff2d.md.relaxation.settings import RelaxSettings

    how = SwapSettings(**settings, relax=None if relax is None else RelaxSettings(**relax))
    return swap_monte_carlo(structures, species, potential, how, output, progress=progress)


def _overview(prog: str, about: str, commands: Mapping[str, str]) -> str:
    width = max(map(len, commands))
    lines = "\n".join(f"  {name:{width}}  {what}" for name, what in commands.items())
    version = "; mlff2d --version says which this is" if prog == "mlff2d" else ""
    return (
        f"usage: {prog} COMMAND ...\n\n{about}\n\ncommands:\n{lines}\n\n"
        f"{prog} COMMAND --help tells more about one{version}."
    )


if __name__ == "__main__":
    sys.exit(main())
