"""`mlff2d domain`: add to a model file where its training set is."""

from __future__ import annotations

import argparse
from pathlib import Path

from mlff2d.arguments import add_model_and_data

# Nothing heavy above the functions: --help must not wait for torch.

DESCRIPTION = """\
Add to a model file where its training set is: a distance in the space of the model's features that
tells how far an environment is from those it was trained on, 1 at the farthest of 1,000 training
atoms. `mlff2d md` then stops where the model is out of its depth. Training and fine-tuning add it
by themselves; this is for older and for imported models.

Of data that the model was trained on its training part is taken, of other data all of it.
"""

EPILOG = """\
example:
  mlff2d domain model.pt training.h5 -o model-with-domain.pt
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add_model_and_data(parser)
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help="model file to write"
    )
    parser.add_argument("--force", action="store_true", help="replace FILE if it exists")
    parser.add_argument("--device", help="cpu, cuda, ... (default: a GPU if there is one)")


def run(args: argparse.Namespace) -> int:
    """Write the model with its domain.

    Raises ModelFileError, StructureError, ValueError and OSError (one sentence) for what the user
    can mend.
    """
    import torch

    from mlff2d import checkpoint
    from mlff2d.devices import pick_device

    from ..console import make_console
    from ..data.build import refuse_existing
    from ..data.convert import open_sources
    from ..data.dataset import Dataset
    from ..evaluation.part import Part, judged_part, leave_unknown
    from ..lineage import material_key_for, training_on
    from .fit import fit_domain

    refuse_existing(args.output, args.force, args.data)
    content = checkpoint.read(args.model)
    dtype = getattr(torch, content["dtype"])
    potential = checkpoint.load(args.model, pick_device(args.device), dtype)
    training = content["training"]
    key = material_key_for(args.data, training)
    paths, _ = open_sources(args.data, args.output.parent, key, potential.model.state, None)
    data = Dataset(paths, potential.cutoff)
    part: Part = "all" if training_on(data, training) is None else "train"
    judged = judged_part(data, part, training, key)
    judged = leave_unknown(data, judged, {str(args.model): potential.elements})
    potential.domain = fit_domain(potential, data, judged.ids)
    checkpoint.save(potential, args.output, training)
    console = make_console()
    for note in judged.notes:
        console.print(note, soft_wrap=True)
    whose = "the training part" if part == "train" else "all"
    console.print(
        f"{args.output}: fitted to {potential.domain.n_atoms:,} atoms of {whose} of "
        f"{len(judged.ids):,} structures.",
        soft_wrap=True,
    )
    return 0
