"""Calculators of ASE from their settings, and what they say of their own level of theory."""

from __future__ import annotations

import importlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError

from mlff2d.errors import nearest

from .geometry import Setting, faces_differ, grid, prepare
from .settings import GpawSettings, LabelSettings

CLASSES = {
    "vasp": "ase.calculators.vasp:Vasp",
    "espresso": "ase.calculators.espresso:Espresso",
    "cp2k": "ase.calculators.cp2k:CP2K",
}

GPAW_MISSING = (
    "GPAW is not installed: pip install gpaw gpaw-data (on Debian it needs libxc-dev, "
    "libopenblas-dev and libfftw3-dev)"
)


class CalculatorError(ValueError):
    """A calculator that cannot be made, whatever the structure; a sentence."""


@dataclass(frozen=True)
class Job:
    """A structure, the calculator that computes it, and what is stored with its labels."""

    setting: Setting
    calculator: Calculator
    info: dict[str, Any]


def check_available(settings: LabelSettings) -> None:
    """Raise ValueError (one sentence) where the calculator is not there."""
    if settings.calculator == "gpaw":
        try:
            importlib.import_module("gpaw")
        except ImportError as error:
            raise ValueError(GPAW_MISSING) from error
    else:
        _class(settings.calculator)


def _class(name: str) -> Any:
    module, _, attribute = CLASSES.get(name, name).partition(":")
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"calculator {name}: {module} cannot be imported ({error})") from error
    if not hasattr(found, attribute):
        choices = [key for key in vars(found) if not key.startswith("_")]
        raise ValueError(f"calculator {name}: no such class.{nearest(attribute, choices)}")
    return getattr(found, attribute)


def make_job(settings: LabelSettings, atoms: Atoms, folder: Path, name: str) -> Job:
    """What computes a structure; `folder` receives what the calculator writes, under `name`.

    Raises StructureError for a structure that it cannot be, CalculatorError for arguments that it
    does not take.
    """
    if settings.calculator == "gpaw":
        return _gpaw(settings, atoms, folder, name)
    setting = Setting.as_it_is(atoms)
    if settings.height is not None:
        setting = prepare(atoms, settings.height, settings.vacuum)
    parameters = dict(settings.parameters)
    if settings.k_length is not None:
        parameters["kpts"] = grid(setting.atoms, settings.k_length)
    described = dict(parameters)
    # What starts a program of its own writes many files.
    if settings.calculator in ("vasp", "espresso"):
        parameters.setdefault("directory", str(folder / name))
    elif settings.calculator == "cp2k":
        parameters.setdefault("label", str(folder / name / "cp2k"))
    calculator = _made(settings.calculator, _class(settings.calculator), parameters)
    info = {
        "level": settings.level or settings.calculator,
        "settings": _line({"calculator": settings.calculator, **described}),
    }
    if "kpts" in described:
        info["kpts"] = "x".join(map(str, described["kpts"]))
    return Job(setting, calculator, info)


def _made(name: str, make: Any, parameters: dict[str, Any]) -> Calculator:
    try:
        calculator: Calculator = make(**parameters)
    except Exception as error:
        raise CalculatorError(
            f"calculator {name}: it cannot be made of these parameters "
            f"({type(error).__name__}: {error})"
        ) from error
    return calculator


def _gpaw(settings: LabelSettings, atoms: Atoms, folder: Path, name: str) -> Job:
    import gpaw

    rules = GpawSettings.model_validate(settings.parameters)
    setting = prepare(atoms, rules.height, rules.vacuum)
    computed = setting.atoms
    cutoff = max(rules.cutoff, *(rules.cutoffs.get(symbol, 0.0) for symbol in computed.symbols))
    parameters: dict[str, Any] = {
        "xc": rules.xc,
        "kpts": {"size": grid(computed, rules.k_length), "gamma": True},
        "occupations": {"name": "fermi-dirac", "width": rules.width},
        "convergence": rules.convergence.model_dump(),
        "maxiter": rules.iterations,
    }
    is_slab = setting.rows is not None
    if is_slab and (rules.dipole == "on" or (rules.dipole == "auto" and faces_differ(computed))):
        parameters["poissonsolver"] = {"dipolelayer": "xy"}
    moments = computed.get_initial_magnetic_moments()
    if rules.spin and not moments.any():
        moments = [rules.moments.get(symbol, 0.0) for symbol in computed.symbols]
    spin = rules.spin and bool(any(moments))
    computed.set_initial_magnetic_moments(moments if spin else None)
    parameters |= {"spinpol": spin} | rules.extra
    level = settings.level or rules.xc
    info = {
        "level": f"{level}/GPAW {gpaw.__version__}/PW{cutoff:g}",
        "settings": _line(
            {"calculator": f"gpaw {gpaw.__version__}", "data": _gpaw_data(), "cutoff": cutoff}
            | parameters
            | {"height": round(float(computed.cell.lengths()[2]), 6)}
        ),
        "kpts": "x".join(map(str, parameters["kpts"]["size"])),
    }
    text = folder / f"{name}.txt"
    parameters |= {"mode": gpaw.PW(cutoff), "txt": str(text)}
    return Job(setting, _made("gpaw", gpaw.GPAW, parameters), info)


def energy_of(atoms: Atoms) -> float:
    """The free energy in eV, which the forces belong to; of a calculator without one its energy."""
    try:
        return float(atoms.get_potential_energy(force_consistent=True))
    except PropertyNotImplementedError:
        return float(atoms.get_potential_energy())


def _gpaw_data() -> str:
    """Which atomic data sets there are: the version of their package, or where they lie."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"gpaw-data {version('gpaw-data')}"
    except PackageNotFoundError:
        return os.environ.get("GPAW_SETUP_PATH", "unknown")


def _line(settings: dict[str, Any]) -> str:
    return json.dumps(settings, default=str)
