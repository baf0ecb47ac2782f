"""`mlff2d analyse`: its arguments, and what it does with them."""

from __future__ import annotations

import argparse
from pathlib import Path

from mlff2d.arguments import positive_count, positive_number

# Nothing heavy above the functions: --help must not wait for torch.

DESCRIPTION = """\
What trajectories of monolayers show: means with their errors, radial distribution, mean squared
displacement and diffusion, ripples and bending rigidity, and thermal expansion where there are
several temperatures. Trajectories of `mlff2d md` and of any program whose files ASE reads, wrapped
into the cell or not, with any cell. Of the frames of a file those belong together that have the
same `replica` in info; replicas of the same atoms at the same temperature are taken together for
all but the means.
"""

EPILOG = """\
written into the folder:
  averages.csv    temperature, energy, area, lattice vectors a and b and their angle, thickness and
                  corrugation (root mean square height of the middle surface, of waves from 6 Å
                  on), each with its standard error from blocks (Flyvbjerg and Petersen 1989)
  rdf.csv, .png   g(r) of each pair of elements. Distances in the plane: a sulphur atom of MoS2 has
                  the one below it at 0
  msd.csv, .png, diffusion.csv
                  mean squared displacement in the plane against time, relative to the centre of
                  mass, and D from MSD = 4 D t
  ripples.csv, .png, rigidity.csv
                  <|h(q)|²> of the waves of the middle surface, and the bending rigidity κ from
                  kT/(A κ q⁴). That holds between waves so long that they are stiffened by the
                  tension they cause (graphene at 300 K: q below 0.24 1/Å) and those as short as a
                  few atoms: see --q-range, and the exponent that is printed
  expansion.csv, area.png
                  (1/A) dA/dT of each compound from a straight line through the areas

examples:
  mlff2d analyse OUT.extxyz
  mlff2d analyse T100.extxyz T200.extxyz T300.extxyz -o expansion
  mlff2d analyse ramp.extxyz --parts 10 --skip 0
  mlff2d analyse other-program.traj --interval 50 --temperature 300
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command to a parser."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "trajectories", type=Path, nargs="+", metavar="TRAJECTORY", help="files that ASE reads"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FOLDER",
        help="where tables and figures go (default: NAME-analysis in this folder)",
    )
    parser.add_argument(
        "--skip",
        type=_share,
        default=0.1,
        metavar="SHARE",
        help="of each trajectory, left out at its beginning (default: %(default)s)",
    )
    parser.add_argument(
        "--parts",
        type=positive_count,
        default=1,
        metavar="N",
        help="means of so many parts of each trajectory, such as of a ramp (default: %(default)s)",
    )
    parser.add_argument(
        "--interval",
        type=positive_number,
        metavar="FS",
        help="time between frames in fs (default: what the frames say)",
    )
    parser.add_argument(
        "--temperature",
        type=positive_number,
        metavar="T",
        help="K, of the ripples (default: what the frames say)",
    )
    parser.add_argument(
        "--r-max",
        type=positive_number,
        default=10.0,
        metavar="R",
        help="Å, of the radial distribution (default: %(default)s)",
    )
    parser.add_argument(
        "--q-range",
        type=_not_negative,
        nargs=2,
        default=(0.0, 0.5),
        metavar=("FROM", "TO"),
        help="1/Å, of the waves that the rigidity is fitted to (default: 0 0.5)",
    )


def run(args: argparse.Namespace) -> int:
    """Analyse, print the tables and write files; 0 when they are written.

    Raises StructureError, ValueError and OSError (one sentence) for what the user can mend.
    """
    from rich.console import Console

    from .analyse import Settings, analyse
    from .figures import draw
    from .tables import print_tables, write_tables
    from .tracks import read_tracks

    if not args.q_range[0] < args.q_range[1]:
        raise ValueError("--q-range goes from a smaller wave number to a larger one")
    folder = args.output or Path(f"{args.trajectories[0].name.split('.')[0]}-analysis")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give a folder with -o")
    notes: list[str] = []
    tracks = read_tracks(args.trajectories, args.interval, notes)
    settings = Settings(args.skip, args.parts, args.r_max, tuple(args.q_range), args.temperature)
    found = analyse(tracks, settings, notes)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [*write_tables(found, folder), *draw(found, folder)]
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console.width = 120
    print_tables(found, console)
    console.print(f"{folder}: {', '.join(path.name for path in paths)}", soft_wrap=True)
    return 0


def _share(text: str) -> float:
    value = _not_negative(text)
    if value >= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to less than 1")
    return value


def _not_negative(text: str) -> float:
    return 0.0 if text in ("0", "0.0") else positive_number(text)
