"""`mlff2d import`: another package's checkpoint becomes a model file of ours."""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryFile

# Nothing heavy above the functions: --help must not wait for torch.

DESCRIPTION = """\
Turn the checkpoint of another package into a model file for MLFF2DCalculator, mlff2d-relax and
training. It gives the energies, forces and stress of the original, and a slab is treated as one
whatever the original does. Nothing in the file is run, also where it is a pickle.
"""

EPILOG = """\
understood:
  nequix        a .nqx file
  matgl         the folder of an M3GNet potential, with model.json and state.pt
  SevenNet      a .pth file, such as those in the package's own folder
  mace-torch    a .model file, such as MACE-MP-0's

examples:
  mlff2d import nequix-oam-1-pft.nqx -o nequix.pt
  mlff2d import M3GNet-MatPES-PBE-v2025.1-PES -o m3gnet-matpes.pt
  mlff2d-relax structures.extxyz --model nequix.pt
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command to a parser."""
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("checkpoint", metavar="FILE", type=Path, help="file or folder to import")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="MODEL",
        help="what to write (default: the name of FILE with .pt, in this folder)",
    )
    parser.add_argument(
        "--head", metavar="NAME", help="which head of a mace-torch file that has several"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")


def run(args: argparse.Namespace) -> int:
    """Import, and show what came out.

    Raises ModelFileError for what cannot be imported, and ValueError for an output that cannot be
    written.
    """
    if not args.checkpoint.exists():  # known at once, before torch is loaded
        raise ValueError(f"there is no file or folder {args.checkpoint}")
    source = args.checkpoint.resolve()  # "." has no name
    output = args.output or Path(f"{source.name if source.is_dir() else source.stem}.pt")
    _refuse_output(output, args.overwrite)
    from mlff2d.checkpoint import read, save
    from mlff2d.importers.recognise import import_model
    from mlff2d.info import print_description

    imported = import_model(args.checkpoint, args.head)
    save(imported.potential, output, {"imported": imported.card})
    print_description(read(output))
    print(f"\nWritten: {output}")
    return 0


def _refuse_output(output: Path, overwrite: bool) -> None:
    if output.is_dir():
        raise ValueError(f"{output} is a folder; name a file such as {output / 'model.pt'}")
    if not output.parent.is_dir():
        raise ValueError(f"there is no folder {output.parent} to write to; make it first")
    if output.exists() and not overwrite:
        raise ValueError(f"{output} exists; give -o another name, or --overwrite")
    try:
        with TemporaryFile(dir=output.parent):
            pass
    except OSError as error:
        raise ValueError(
            f"nothing can be written into the folder {output.parent} ({error.strerror}); name "
            "another place with -o"
        ) from error
