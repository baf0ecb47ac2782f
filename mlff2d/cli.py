"""The program `mlff2d`: it finds the command and hands over.

Only the chosen command is loaded, and what it computes with only when it runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

from mlff2d.errors import nearest

COMMANDS = {
    "import": "turn another package's checkpoint into a model file",
    "info": "show what a model file is and where it came from",
    "predict": "predict the property that a model was trained on",
    "relax": "relax monolayers: their atoms and their cell in the plane",
    "train": "train a model of energies, forces and stress, or of a property",
}


class _Parser(argparse.ArgumentParser):
    """Names the nearest option for a misspelt one, and asks for --help rather than printing it."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog=prog, allow_abbrev=False)

    def parse_strictly(self, argv: Sequence[str]) -> argparse.Namespace:
        args, unknown = self.parse_known_args(argv)
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
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return 0 if argv else 2
    if argv[0] == "--version":
        from importlib.metadata import version

        print(f"mlff2d {version('mlff2d')}")
        return 0
    if argv[0] not in COMMANDS:
        hint = nearest(argv[0], COMMANDS)
        print(f"mlff2d: there is no command {argv[0]!r}.{hint}", file=sys.stderr)
        return 2
    return _run(argv[0], f"mlff2d {argv[0]}", argv[1:])


def relax_main(argv: Sequence[str] | None = None) -> int:
    """Run `mlff2d-relax ...`, the same as `mlff2d relax ...`."""
    return _run("relax", "mlff2d-relax", sys.argv[1:] if argv is None else argv)


def _run(name: str, prog: str, argv: Sequence[str]) -> int:
    command = _load(name)
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


def _load(name: str) -> ModuleType:
    if name == "import":
        from mlff2d.importers import command as importing

        return importing
    if name == "info":
        from mlff2d import info

        return info
    if name == "predict":
        from mlff2d import predict

        return predict
    if name == "relax":
        from mlff2d.md import command as relax

        return relax
    from mlff2d.training import command as train

    return train


def _overview() -> str:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:{width}}  {what}" for name, what in COMMANDS.items())
    return (
        "usage: mlff2d COMMAND ...\n\n"
        "Machine-learned interatomic potentials for two-dimensional materials.\n\n"
        f"commands:\n{commands}\n\n"
        "mlff2d COMMAND --help tells more about one; mlff2d --version says which this is."
    )


if __name__ == "__main__":
    sys.exit(main())
