"""A screen from its start to its files, in this process."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from mlff2d.potential import Potential
from mlff2d.sources import Sources

from ..memory import edge_budget
from ..relaxation.batch import BatchRelaxer
from ..relaxation.one_by_one import AseRelaxer
from ..relaxation.settings import RelaxSettings
from .block import Relaxer, Report, Work, run_block, silent
from .compose import Outputs
from .run_folder import RunFolder, open_run

RELAXERS = ("batch", "ase")


@dataclass(frozen=True)
class Relaxing:
    """The relaxation of every structure, as `Work`.

    Attributes
    ----------
    potential : on the device and in the precision it shall work in
    settings : see `RelaxSettings`
    relaxer : one of `RELAXERS`
    max_edges : of all structures that are relaxed at a time
    """

    potential: Potential
    settings: RelaxSettings
    relaxer: str
    max_edges: int | None = None

    @property
    def one_by_one(self) -> bool:
        """Whether structures do not depend on each other, see `Work`."""
        return self.relaxer == "ase"

    def start(self) -> Relaxer:
        """A relaxer that has done nothing yet."""
        if self.relaxer == "ase":
            return AseRelaxer(self.potential, self.settings)
        return BatchRelaxer(self.potential, self.settings, self.max_edges)


def begin(
    sources: Sources,
    outputs: Outputs,
    potential: Potential,
    settings: RelaxSettings,
    relaxer: str = "batch",
    block: int | None = None,
    restart: bool = False,
    processes: int = 1,
) -> tuple[RunFolder, Relaxing]:
    """The run folder of a screen, new or of a run that goes on, and what is done to each block.

    `processes` will share the memory of this machine. Raises as `open_run` does.
    """
    identity = {
        "input": sources.digest,
        "model": potential.fingerprint(),
        "dtype": str(potential.dtype).removeprefix("torch."),
        "device": next(potential.parameters()).device.type,
        "relaxer": relaxer,
        **asdict(settings),
    }

    def measure() -> dict[str, Any]:
        return {"max_edges": edge_budget(potential, processes) if relaxer == "batch" else None}

    folder = open_run(
        outputs.frames,
        outputs.paths,
        identity,
        len(sources),
        block=block,
        restart=restart,
        measure=measure,
    )
    return folder, Relaxing(potential, settings, relaxer, folder.measured["max_edges"])


def relax_blocks(
    folder: RunFolder,
    sources: Sources,
    blocks: Iterable[int],
    work: Work,
    report: Report = silent,
) -> list[int]:
    """Relax what is not finished of the blocks; those that other processes are at work on."""
    taken = []
    for k in blocks:
        if not run_block(folder, k, sources.read(*folder.plan.span(k)), work, report):
            taken.append(k)
    return taken
