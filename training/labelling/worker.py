"""A process that labels one structure after another; if it dies, no other is lost.

Started by `pool` as `python -m mlff2d.training.labelling.worker DESCRIPTOR`: settings and tasks
come, and frames go, through the connection of that number. Whatever is printed goes to the log.
"""

from __future__ import annotations

import errno
import faulthandler
import gc
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from mlff2d.errors import StructureError

from .calculators import CalculatorError, Job, energy_of, make_job
from .frames import pack
from .journal import DONE, FAILED, STEP, UNUSABLE
from .settings import LabelSettings

Relaxer = Callable[..., Any]
"""Relaxes (atoms, calculator, **settings) and returns what has `met` and `reason`; of md."""


@dataclass(frozen=True)
class Order:
    """What a worker is told once.

    Attributes
    ----------
    settings : of the calculator
    folder : for what the calculator writes
    relaxer : None for single points
    relaxation : its settings: steps, fmax, smax
    """

    settings: LabelSettings
    folder: Path
    relaxer: Relaxer | None = None
    relaxation: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """A structure, and the frames that an earlier process computed of its relaxation."""

    key: str
    atoms: Atoms
    known: list[dict[str, Any]] = field(default_factory=list)


def label(order: Order, task: Task, send: Callable[..., None]) -> None:
    """Label one structure; `send` takes the arguments of `Journal.add` after the key.

    What goes wrong is sent as well.
    """
    begun = cpu_seconds()
    told = 0.0  # of that, what was sent with frames

    def send_frame(status: str, **what: Any) -> None:
        nonlocal told
        told += what["cpu_s"]
        send(status, **what)

    try:
        job = make_job(order.settings, task.atoms, order.folder, task.key)
        recorder = _Recorder(job, task.known, send_frame, order.relaxer is None)
        if order.relaxer is None:
            recorder.calculate(job.setting.atoms)
            return
        found = order.relaxer(job.setting.atoms, recorder, **order.relaxation)
        send(DONE, reason="" if found.met else found.reason)
    except CalculatorError as error:
        send(UNUSABLE, reason=str(error))
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            text = f"the calculator could not write ({error.strerror}); make room"
            send(UNUSABLE, reason=f"{text} and run the same command again")
            return
        send(FAILED, reason=sentence(error), cpu_s=round(cpu_seconds() - begun - told, 2))


def sentence(error: Exception) -> str:
    """What to say of an error of any calculator."""
    text = " ".join(str(error).split())
    kind = type(error).__name__
    if kind in ("KohnShamConvergenceError", "SCFError", "SCFConvergenceError"):
        return f"the self-consistent field did not converge ({text})"
    return text if isinstance(error, StructureError) else f"{kind}: {text}"


class _Recorder(Calculator):
    """Hands every new geometry to the calculator of a job and sends its frame.

    Geometries that are known are not computed again, so that a relaxation that was broken off walks
    the same way to where it was.
    """

    implemented_properties = ["energy", "free_energy", "forces", "stress"]  # noqa: RUF012

    def __init__(
        self, job: Job, known: list[dict[str, Any]], send: Callable[..., None], single: bool
    ) -> None:
        super().__init__()
        self._job, self._known, self._send, self._single = job, known, send, single
        self._step = 0

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Fill `results` with all that is implemented; called by ASE."""
        super().calculate(atoms, properties, system_changes)
        assert self.atoms is not None
        found = self._from_before(self.atoms) or self._computed(self.atoms)
        energy, forces, stress = found
        if stress is None and not self._single:
            raise StructureError("the calculator gives no stress, which relaxing its cell needs")
        self.results = {"energy": energy, "free_energy": energy, "forces": forces}
        if stress is not None:
            self.results["stress"] = full_3x3_to_voigt_6_stress(stress)
        self._step += 1

    def _from_before(self, atoms: Atoms) -> tuple[float, np.ndarray, np.ndarray | None] | None:
        if self._step >= len(self._known):
            return None
        frame = self._known[self._step]
        zero = np.zeros((3, 3))
        here, _, _ = self._job.setting.back(atoms, np.zeros((len(atoms), 3)), zero)
        near = np.allclose(here.positions, frame["positions"], rtol=0, atol=1e-6)
        if not near or not np.allclose(here.cell.array, frame["cell"], rtol=0, atol=1e-6):
            self._known = []
            return None
        r = self._job.setting.rotation
        stress = frame["stress"]
        turned = None if stress is None else r @ np.array(stress) @ r.T
        return frame["energy"], np.array(frame["forces"]) @ r.T, turned

    def _computed(self, atoms: Atoms) -> tuple[float, np.ndarray, np.ndarray | None]:
        begun = cpu_seconds()
        computed = atoms.copy()
        computed.calc = self._job.calculator
        energy = energy_of(computed)
        forces = computed.get_forces()
        try:
            stress = computed.get_stress(voigt=False)
        except (PropertyNotImplementedError, NotImplementedError):
            stress = None
        results = self._job.calculator.results
        info = dict(self._job.info)
        if "free_energy" in results:
            info["energy_sigma0"] = float(results["energy"])
        if computed.get_initial_magnetic_moments().any() and results.get("magmom") is not None:
            info["magmom"] = round(float(results["magmom"]), 4)
        info["cpu_s"] = round(cpu_seconds() - begun, 2)
        if not self._single:
            info["step"] = self._step
        zero = np.zeros((3, 3))
        there = self._job.setting.back(computed, forces, zero if stress is None else stress)
        frame = pack(there[0], energy, there[1], None if stress is None else there[2], info)
        status = DONE if self._single else STEP
        self._send(status, frame=frame, step=self._step, cpu_s=info["cpu_s"])
        return energy, forces, stress


def cpu_seconds() -> float:
    """What this process and those that it started and that ended took of the processor."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _end_with_parent() -> None:
    sys.stdin.buffer.read()  # it ends when whoever holds the other end does
    os.killpg(0, signal.SIGKILL)  # with the programs that a calculator started


def main() -> None:
    """Do what comes through the connection until it ends."""
    faulthandler.enable()
    for number in (signal.SIGINT, signal.SIGTERM):  # whoever started it ends it
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    warnings.simplefilter("ignore")
    connection: Connection[Any, Any] = Connection(int(sys.argv[1]))
    order: Order = connection.recv()
    connection.send(None)
    while True:
        try:
            task: Task = connection.recv()
        except EOFError:
            return

        def send(status: str, **what: Any) -> None:
            connection.send((status, what))

        label(order, task, send)
        gc.collect()  # calculators are cycles of few objects, which hold much memory


if __name__ == "__main__":
    main()
