"""The tables of a study: configurations, errors of every method, ground states, and predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mlff2d.errors import counted

from ..evaluation.tables import Cell, Table
from .config import METHODS
from .formation import COLUMN, dft_formation, hull_distances
from .judge import FEWEST_RANKED, Judged, mean_and_spread, of, shares_of
from .method import Answers
from .system import Configuration, System

SPREAD = "mean ± standard deviation over the splits"


def cells_table(system: System, configurations: Sequence[Configuration]) -> Table:
    """All configurations of a system, and what DFT says of them."""
    formation = dft_formation(configurations)
    distances = hull_distances(shares_of(configurations), formation)
    species = [f"x_{one}" for one in system.lattice.shared]
    energies = [f"DFT {COLUMN}", "above the DFT hull, meV/site"]
    columns = ["configuration", "sites", *species, "DFT frames", "fmax, eV/Å", "smax, N/m"]
    table = Table("configurations", f"Configurations of {system.name}", [*columns, *energies])
    for one, energy, distance in zip(configurations, formation, distances, strict=True):
        shares = [float(x) for x in one.shares.values()]
        figures = [*one.residues, 1e3 * float(energy), 1e3 * float(distance)]
        table.rows.append([one.name, one.n_sites, *shares, len(one.frames), *figures])
    table.digits = dict.fromkeys(energies, 2) | dict.fromkeys(species, 3)
    table.note = (
        "fmax and smax are what DFT left of forces and in-plane stress in the frame of lowest "
        "energy. A configuration has a formation energy where that counts as relaxed."
    )
    return table


def errors_table(judged: Sequence[Judged], systems: Sequence[str], methods: Sequence[str]) -> Table:
    """Formation energies: mean absolute errors of every method in every system."""
    columns = ["method", *systems]
    table = Table("formation", f"Errors of {COLUMN}", columns)
    for method in methods:
        cells: list[Cell] = [method]
        for system in systems:
            found = of(judged, system, method)
            cells.append(_plus_minus([one.mae for one in found], 2, _failed(found)))
        if any(cell != "–" for cell in cells[1:]):
            table.rows.append(cells)
    table.right = systems
    table.note = (
        f"Mean absolute error on held-out configurations, {SPREAD}. An asterisk: some of them have "
        "no answer and are not in the mean. Methods: "
        + "; ".join(f"{m} - {METHODS[m.partition(':')[0]]}" for m in methods)
        + "."
    )
    return table


def _failed(found: Sequence[Judged]) -> bool:
    return any(one.failed for one in found)


def _plus_minus(values: Sequence[float], digits: int, star: bool = False) -> str:
    mean, spread = mean_and_spread(values)
    if not np.isfinite(mean):
        return "–"
    text = f"{mean:.{digits}f}" + (f" ± {spread:.{digits}f}" if np.isfinite(spread) else "")
    return text + ("*" if star else "")


def details_table(judged: Sequence[Judged], system: str, methods: Sequence[str]) -> Table:
    """All figures of every method in one system."""
    columns = ["method", "MAE, meV/site", "RMSE, meV/site", "MAE, meV/atom"]
    columns += ["Spearman", "above the hull, MAE, meV/site", "ground states found"]
    columns += ["false", "without an answer"]
    table = Table("errors", f"{system}: errors on held-out configurations", columns)
    for method in methods:
        found = of(judged, system, method)
        if not found:
            continue
        per_atom = [one.mae * one.sites_per_atom for one in found]
        states = sum(one.found for one in found), sum(one.found + one.missed for one in found)
        table.rows.append(
            [
                method,
                _plus_minus([one.mae for one in found], 2),
                _plus_minus([one.rmse for one in found], 2),
                _plus_minus(per_atom, 2),
                _plus_minus([one.spearman for one in found], 2),
                _plus_minus([one.hull_mae for one in found], 2),
                f"{states[0]} of {states[1]}",
                sum(one.false for one in found),
                sum(one.failed for one in found),
            ]
        )
    table.right = columns[1:7]
    own = [one for one in judged if one.system == system and one.size is None]
    if own:
        table.note = (
            f"{counted(len({one.split for one in own}), 'split')}, "
            f"{counted(own[0].n_train, 'configuration')} learnt "
            f"from and {own[0].n_test} held out in each; {SPREAD}. Ground states are those of DFT "
            "among all of them, summed over the splits; false ones are on the predicted hull only. "
            f"A rank correlation needs {FEWEST_RANKED} held-out configurations."
        )
    return table


def relaxed_table(judged: Sequence[Judged], systems: Sequence[str], key: str) -> Table:
    """Energies or areas after relaxation by potentials: the thesis's tables 4.4 to 4.7."""
    is_energy = key == "energy_mae"
    what, unit = ("energies", "meV/atom") if is_energy else ("areas", "Å²/atom")
    title = f"Errors of {what} after relaxation, {unit}"
    table = Table(key.replace("_", "-"), title, ["method", *systems])
    methods = dict.fromkeys(one.method for one in judged if np.isfinite(getattr(one, key)))
    for method in methods:
        cells = [
            _plus_minus(
                [getattr(one, key) for one in of(judged, name, method)],
                2 if is_energy else 4,
                _failed(of(judged, name, method)),
            )
            for name in systems
        ]
        table.rows.append([method, *cells])
    table.right = systems
    table.note = (
        f"Relaxed from ideal sites, held-out configurations, {SPREAD}; absolute energies, their "
        "zero learnt from the configurations that were not held out."
        if is_energy
        else f"Relaxed from ideal sites, held-out configurations, {SPREAD}."
    )
    return table


def curve_table(judged: Sequence[Judged], system: str) -> Table:
    """Errors by number of configurations learnt from."""
    own = [one for one in judged if one.system == system]
    sizes = sorted({one.n_train for one in own})
    methods = list(dict.fromkeys(one.method for one in own))
    columns = ["method", *(str(size) for size in sizes)]
    title = f"{system}: errors of formation energies by configurations learnt from, meV per site"
    table = Table("curve", title, columns, right=columns[1:])
    for method in methods:
        cells = [
            _plus_minus([o.mae for o in own if o.method == method and o.n_train == size], 2)
            for size in sizes
        ]
        table.rows.append([method, *cells])
    table.note = f"End members count among the configurations; {SPREAD}."
    return table


def predicted_table(
    system: str, configurations: Sequence[Configuration], final: Mapping[str, Answers]
) -> Table:
    """What every method says of every configuration, having learnt from all DFT results."""
    species = [f"x_{one}" for one in configurations[0].shares]
    columns = ["configuration", *species, "method", COLUMN, "meV/atom"]
    columns += ["Å²/atom", "status", "reason"]
    title = f"Predictions for {system}"
    table = Table("predicted", title, columns)
    for one in configurations:
        for method, answers in final.items():
            said = answers.of.get((system, one.name))
            if said is not None:
                energy = 1e3 * said.formation
                figures = [energy, energy * one.n_sites / len(one.start), said.area]
                shares = [float(x) for x in one.shares.values()]
                words = [said.status, said.reason]
                table.rows.append([one.name, *shares, method, *figures, *words])
    table.digits = dict.fromkeys(species, 3) | {COLUMN: 2, "meV/atom": 2, "Å²/atom": 4}
    return table


def facts_table(facts: Mapping[str, Mapping[str, Mapping[str, object]]]) -> Table:
    """What each method says of what it has learnt."""
    table = Table("learnt", "What was learnt", ["method", "system", "what"])
    for method, of_method in facts.items():
        for system, values in of_method.items():
            text = ", ".join(f"{key} {_short(value)}" for key, value in values.items())
            table.rows.append([method, system or "all", text])
    table.note = "Of the last time that each method has learnt; from everything, if it predicts."
    return table


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return "(" + ", ".join(_short(one) for one in value) + ")"
    return str(value)
