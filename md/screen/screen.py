"""A screen from its start to its files, in this process."""

from __future__ import annotations

import hashlib
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
        "model": fingerprint(potential),
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


def fingerprint(potential: Potential) -> str:
    """SHA-256 of all that the energies of a potential depend on, whatever file it came from."""
    digest = hashlib.sha256(repr(potential.model.config).encode())
    digest.update(f"{potential.scale} {potential.zbl is not None}".encode())
    digest.update(repr(potential.references.as_dict()).encode())
    for name, tensor in sorted(potential.model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().double().numpy().tobytes())
    return digest.hexdigest()
