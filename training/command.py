"""`mlff2d train`: its arguments, and the way from them to a trained model."""

from __future__ import annotations

import argparse
from pathlib import Path

from mlff2d.arguments import add_overrides

from .config import load_config
from .distributed import processes
from .finetuning.report import fine_tune
from .loop import train

_TEACHING = """\
a config:
  run_dir: runs/first                   the folder for all that the run writes
  data: {files: [structures.extxyz]}    or vasprun.xml, OUTCAR, folders of runs, HDF5, ...
  model: {name: m3gnet, cutoff: 5.0}    or {from: universal}, to start from a trained model
  loss: {energy: 1.0, forces: 1.0, stress: 0.1}
  train: {epochs: 50, batch_size: 16, lr: 1.0e-3}
  Whatever is left out has a default; config.yaml in run_dir shows every setting of a run. A name
  that does not exist is refused, and the nearest one named.

examples:
  mlff2d train config.yaml
      The same again goes on where a run was killed, stopped with Ctrl-C or by train.max_minutes,
      and ends with the same weights as if nothing had stopped it.
  mlff2d train config.yaml --set run_dir=runs/second --set train.lr=3e-3
  mlff2d train config.yaml --set train.epochs=200
      Lengthens a run, where train.schedule is plateau or constant.
  mlff2d train config.yaml --skip-bad-batch
      After a loss that was NaN or train.max_jump times what it used to be: the run has stopped and
      named the structures; this goes on from the last saved state without them.
  torchrun --nproc_per_node 2 -m mlff2d.cli train config.yaml
      Two processes, on a GPU each where there are GPUs, share every batch; all else stays the same.
      Likewise: torchrun --nproc_per_node 2 --no-python mlff2d train config.yaml

what it leaves in run_dir:
  best.pt       the model with the lowest validation loss; metrics.json has its errors
  last.pt       the model after the last epoch
  stage-one.pt  the best model before loss.stage_two
  log.jsonl     a line of figures for every epoch
  tensorboard   the same and the steps, where train.log names it: tensorboard --logdir runs
  state.pt      what a run needs to go on
  bad_batch.pt  the structures on which a run has stopped, and their errors
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command, and what its help says beside them."""
    parser.description = "Train a model of energies, forces and stress, or of a property."
    parser.epilog = _TEACHING
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("config", type=Path, help="YAML file with the settings of the run")
    add_overrides(parser, "train.lr=1e-3")
    parser.add_argument(
        "--skip-bad-batch",
        action="store_true",
        help="go on after a loss that was NaN or jumped, without the structures that caused it",
    )


def run(args: argparse.Namespace) -> int:
    """Train; the exit status is 0 for a run that finished or whose time was up.

    A run stopped by a signal has saved its state and gives 128 plus the signal's number. Raises
    ValueError (one sentence) for a config, data or a loss with which training cannot go on.
    """
    with processes():
        config = load_config(args.config, args.overrides)
        work = train if config.finetune is None else fine_tune
        outcome = work(config, skip_bad_batch=args.skip_bad_batch)
    return 0 if outcome.signal is None else 128 + outcome.signal
