"""Relaxation of one slab: honest convergence, one slab one answer, every way to go wrong."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import fcc111, mx2
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from mlff2d import slab
from mlff2d.atoms import canonical_slab, in_plane_virial
from mlff2d.calculator import MLFF2DCalculator
from mlff2d.errors import StructureError
from mlff2d.md.lattice import lattice_type
from mlff2d.md.relaxation.relax import relax
from mlff2d.md.relaxation.result import RelaxResult
from mlff2d.md.relaxation.settings import RelaxSettings
from mlff2d.units import EV_PER_ANGSTROM2_IN_N_PER_M
from tests.standins import Morse, copper, rotated
from tests.structures import mos2

FIXED = RelaxSettings(cell="fixed")


def plane_area(atoms: Atoms) -> float:
    return slab.area(atoms.cell.array, canonical_slab(atoms).pbc)


@pytest.mark.parametrize("calculator", [EMT, Morse])
def test_converged_is_true_at_the_geometry_returned(calculator) -> None:
    atoms = copper()
    before = atoms.copy()
    result = relax(atoms, calculator(), RelaxSettings(fmax=0.01, smax=0.02))
    assert (result.status, result.reason) == ("converged", "")
    assert np.array_equal(atoms.positions, before.positions)
    assert atoms.calc is None
    assert np.array_equal(result.atoms.cell[2], before.cell[2])
    fresh = result.atoms.copy()
    fresh.calc = calculator()
    assert np.linalg.norm(fresh.get_forces(), axis=1).max() == pytest.approx(result.fmax)
    stress = slab.stress_2d(in_plane_virial(fresh), fresh.cell.array, fresh.pbc)
    assert stress == pytest.approx(result.stress_2d)
    assert result.fmax <= 0.01
    assert result.smax <= 0.02
    assert np.abs(stress).max() <= result.smax + 1e-12
    assert fresh.get_potential_energy() == pytest.approx(result.energy)
    assert result.atoms.get_potential_energy() == result.energy
    assert result.area_before == pytest.approx(plane_area(before) / len(before))
    assert result.area_after == pytest.approx(plane_area(fresh) / len(fresh))
    assert result.thickness == pytest.approx(np.ptp(fresh.positions[:, 2]))


def test_stress_alone_keeps_it_going() -> None:
    """Atoms at rest in a cell that is not: symmetry makes every force zero from the start."""
    atoms = fcc111("Cu", (1, 1, 1), a=3.9, vacuum=6.0)
    result = relax(atoms, EMT())
    assert result.status == "converged"
    assert result.steps > 0
    assert result.area_after < result.area_before


def variants(atoms: Atoms) -> dict[str, Atoms]:
    """The same slab, written down in other ways."""
    found = {"rotated": rotated(atoms, 3)}
    for axis in (1, 2):
        found[f"axes {axis}"] = atoms.copy()
        found[f"axes {axis}"].set_cell(np.roll(atoms.cell.array, axis, axis=0))
        found[f"axes {axis}"].pbc = np.roll(atoms.pbc, axis)
    for name, change in {"left-handed": [1, 0, 2], "upside down": [0, 1, 2]}.items():
        found[name] = atoms.copy()
        found[name].set_cell(atoms.cell.array[change] * ([[1], [1], [-1]] if change[0] == 0 else 1))
    for name, third in {"zero": [0, 0, 0], "far": [0, 0, 40], "tilted": [2.0, 1.1, 22.0]}.items():
        found[name] = atoms.copy()
        found[name].set_cell([*atoms.cell[:2], third])
    found["TTT"] = atoms.copy()
    found["TTT"].pbc = True
    cut = found["tilted"].copy()
    cut.pbc = True
    cut.positions -= [0, 0, atoms.positions[:, 2].mean()]
    cut.wrap()
    assert np.ptp(cut.positions[:, 2]) > 15
    found["cut by the boundary"] = cut
    return found


def test_one_slab_one_answer() -> None:
    atoms = copper()
    calculator = Morse()
    expected = relax(atoms, calculator)
    for name, variant in variants(atoms).items():
        result = relax(variant, calculator)
        assert result.status == "converged", name
        assert result.steps == expected.steps, name
        assert result.energy == pytest.approx(expected.energy, abs=1e-8), name
        assert result.area_after == pytest.approx(expected.area_after, abs=1e-8), name
        assert result.thickness == pytest.approx(expected.thickness, abs=1e-8), name
        assert result.smax == pytest.approx(expected.smax, abs=1e-7), name
        assert result.lattice_after == expected.lattice_after, name
        vacuum = canonical_slab(variant).axis
        assert np.array_equal(result.atoms.cell[vacuum], variant.cell[vacuum]), name
        assert np.array_equal(result.atoms.pbc, variant.pbc), name
        moved = result.atoms.positions - variant.positions
        assert np.linalg.norm(moved, axis=1).max() < 3, f"{name}: atoms stay in their images"


def test_fix_cell_leaves_the_cell_bitwise() -> None:
    atoms = rotated(copper(), 5)
    result = relax(atoms, EMT(), FIXED)
    assert result.status == "converged"
    assert np.array_equal(result.atoms.cell.array, atoms.cell.array)
    assert result.smax > 0.05, "the strained cell is under tension, and that is said"


def test_fix_cell_needs_no_stress() -> None:
    class NoStress(Morse):
        implemented_properties = ("energy", "forces")

    result = relax(copper(), NoStress(), FIXED)
    assert result.status == "converged"
    assert np.isnan(result.stress_2d).all()
    with pytest.raises(StructureError, match="gives no stress"):
        relax(copper(), NoStress())


def test_constraints_are_kept() -> None:
    atoms = copper()
    atoms.set_constraint(FixAtoms([0]))
    result = relax(atoms, EMT())
    assert result.status == "converged"
    assert np.allclose(
        result.atoms.get_scaled_positions()[0], atoms.get_scaled_positions()[0], atol=1e-12
    )


def test_too_few_steps() -> None:
    result = relax(copper(), EMT(), RelaxSettings(steps=3))
    assert (result.status, result.steps) == ("max-steps", 3)
    assert "3 steps" in result.reason
    assert relax(copper(), EMT(), RelaxSettings(steps=0)).steps == 0


class Pulled(Calculator):
    """Energy -(tension) area - pull * height of the last atom, NaN after so many calls."""

    implemented_properties = ("energy", "forces", "virial")

    def __init__(self, tension: float = 0.0, pull: float = 0.0, nan_after: int = 10**9) -> None:
        super().__init__()
        self.tension, self.pull, self.nan_after, self.calls = tension, pull, nan_after, 0

    def calculate(self, atoms=None, properties=None, system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        self.calls += 1
        area = plane_area(self.atoms)
        forces = np.zeros((len(self.atoms), 3))
        forces[-1, 2] = self.pull * (self.atoms.positions[-1, 2] < 15)
        self.results = {
            "energy": -self.tension * area if self.calls <= self.nan_after else np.nan,
            "forces": forces,
            "virial": -self.tension * area * np.diag([1.0, 1.0, 0.0]),
        }


def ends(result: RelaxResult, status: str, *words: str) -> None:
    assert result.status == status
    assert all(word in result.reason for word in words), result.reason
    assert np.isfinite(result.atoms.positions).all()


def test_exploded() -> None:
    mos2 = mx2("MoS2", vacuum=6.0)
    mos2.pbc = (True, True, False)
    ends(relax(mos2, Pulled(tension=2.0)), "exploded", "stretched")
    ends(relax(mos2, Pulled(tension=-2.0)), "exploded", "stretched")
    result = relax(mos2, Pulled(tension=0.2, nan_after=5))
    ends(result, "exploded", "NaN", "after 4 steps")
    assert result.steps == 4
    # Attraction without a core: atoms fall onto each other, whether or not forces vanish there.
    ends(relax(copper(), Morse(width=0.5, length=0.4), FIXED), "exploded")


def test_detached() -> None:
    mos2 = mx2("MoS2", vacuum=6.0)
    mos2.pbc = (True, True, False)
    ends(relax(mos2, Pulled(pull=1.0), FIXED), "detached", "2 pieces", "1 before")


CELL_MODES = ("full", "isotropic", "area", "a", "b", "fixed")


@pytest.mark.parametrize("mode", CELL_MODES)
def test_each_cell_mode_relaxes_what_it_leaves_free(mode) -> None:
    atoms = rotated(copper(scale=1.02), 3)
    atoms.set_cell(atoms.cell.array[[1, 2, 0]])
    atoms.pbc = (True, False, True)
    a, b = atoms.cell.array[[0, 2]]
    result = relax(atoms, EMT(), RelaxSettings(fmax=0.01, smax=0.02, cell=mode))
    assert result.status == "converged"
    after = result.atoms.cell.array[[0, 2]]
    full = relax(atoms, EMT(), RelaxSettings(fmax=0.01, smax=0.02))
    assert result.energy > full.energy - 1e-3, "what is kept costs energy"
    xx, yy, xy = result.stress_2d
    if mode == "isotropic":
        assert np.allclose(after / np.sqrt(plane_area(result.atoms) / plane_area(atoms)), [a, b])
        assert abs(xx + yy) / 2 <= 0.02
    elif mode == "area":
        assert plane_area(result.atoms) == pytest.approx(plane_area(atoms), rel=1e-12)
        assert np.hypot((xx - yy) / 2, xy) <= 0.02
        assert (xx + yy) / 2 > 0.2, "the area is too large"
    elif mode in ("a", "b"):
        kept = ("a", "b").index(mode)
        assert np.allclose(after[kept], (a, b)[kept], atol=1e-12)
        assert not np.allclose(after[1 - kept], (a, b)[1 - kept], atol=1e-3)
        across = np.cross(np.cross(a, b), after[kept])
        axes = slab.plane_axes(result.atoms.cell.array, atoms.pbc)
        across = axes @ across / np.linalg.norm(across)
        stress = np.array([[xx, xy], [xy, yy]])
        assert np.linalg.norm(stress @ across) <= 0.03, "no force on the free edge"
        assert np.linalg.norm(stress) > 0.1
    elif mode == "fixed":
        assert np.array_equal(after, [a, b])


def test_at_a_pressure_the_stress_is_minus_it_and_the_area_follows() -> None:
    atoms = rotated(copper(), 1)
    areas = []
    for pressure in (-1.0, 0.0, 1.0, 2.0):
        asked = RelaxSettings(fmax=0.005, smax=0.005, pressure=pressure)
        result = relax(atoms, EMT(), asked)
        assert result.status == "converged"
        assert result.stress_2d == pytest.approx([-pressure, -pressure, 0], abs=0.006)
        areas.append(result.area_after)
    assert (np.diff(areas) < -0.01).all(), "a positive pressure compresses"


@pytest.mark.parametrize("pressure", [-1.5, 0.0, 3.0])
def test_pressure_against_a_grid_of_areas(pressure) -> None:
    """One atom in its cell: the area is all there is to relax."""
    atoms = fcc111("Cu", (1, 1, 1), a=3.6, vacuum=6.0)
    asked = RelaxSettings(smax=1e-4, cell="isotropic", pressure=pressure)
    result = relax(atoms, EMT(), asked)
    assert result.status == "converged"
    areas, enthalpies = [], []
    for scale in np.linspace(0.9, 1.1, 401):
        trial = atoms.copy()
        trial.set_cell(atoms.cell.array * [[scale], [scale], [1]], scale_atoms=True)
        trial.calc = EMT()
        areas.append(plane_area(trial))
        work = pressure / EV_PER_ANGSTROM2_IN_N_PER_M * areas[-1]
        enthalpies.append(trial.get_potential_energy() + work)
    lowest = int(np.argmin(enthalpies))
    fit = np.polyfit(areas[lowest - 3 : lowest + 4], enthalpies[lowest - 3 : lowest + 4], 2)
    assert plane_area(result.atoms) == pytest.approx(-fit[1] / (2 * fit[0]), abs=2e-3)


def test_lbfgs_finds_the_same_minimum_in_fewer_steps() -> None:
    asked = RelaxSettings(fmax=1e-3, smax=2e-3)
    slow = relax(copper(), EMT(), asked)
    quick = relax(copper(), EMT(), replace(asked, optimizer="lbfgs"))
    assert (slow.status, quick.status) == ("converged", "converged")
    assert quick.steps < slow.steps
    assert quick.energy == pytest.approx(slow.energy, abs=1e-4)
    assert quick.area_after == pytest.approx(slow.area_after, rel=1e-4)


def test_polish_finishes_in_float64() -> None:
    atoms = mos2(rattle=0.05)
    asked = RelaxSettings(fmax=1e-5, smax=1e-4, optimizer="lbfgs", polish=True)
    calculator = MLFF2DCalculator()
    result = relax(atoms, calculator, asked)
    assert result.status == "converged"
    assert calculator.dtype == torch.float32
    rough = relax(atoms, calculator, asked.before_polish())
    assert rough.fmax > 1e-5
    assert rough.steps < result.steps
    exact = result.atoms.copy()
    exact.calc = MLFF2DCalculator(dtype="float64")
    assert exact.get_potential_energy() == pytest.approx(result.energy, abs=1e-10)
    assert np.linalg.norm(exact.get_forces(), axis=1).max() == pytest.approx(result.fmax, abs=1e-9)
    few = relax(atoms, calculator, replace(asked, steps=rough.steps + 1))
    assert (few.status, few.steps) == ("max-steps", rough.steps + 1)


@pytest.mark.parametrize("optimizer", ["fire", "lbfgs"])
def test_symmetry_with_atoms_that_are_held(optimizer) -> None:
    atoms = fcc111("Cu", (1, 1, 3), a=3.7, vacuum=6.0)
    atoms.rattle(0.01, seed=0)
    atoms.set_constraint(FixAtoms([1]))
    for mode in ("full", "fixed"):
        asked = RelaxSettings(symmetry=True, cell=mode, optimizer=optimizer)
        result = relax(atoms, EMT(), asked)
        assert result.status == "converged"
        assert 0 < result.symmetrized < 0.03
        assert result.layer_group_after == result.layer_group_before == 72
        forces = result.atoms.get_forces(apply_constraint=False)
        assert np.abs(forces.sum(0)).max() < 1e-6, "forces as they are, on held atoms too"


@pytest.mark.parametrize(
    ("atoms", "words"),
    [
        (Atoms("Cu", cell=[2.5, 2.5, 2.5], pbc=True), "vacuum"),
        (Atoms("Cu2", [[0, 0, 0], [0, 0, 2.5]]), "molecule"),
        (Atoms("Cu", [[np.nan, 0, 0]], cell=[3, 3, 20], pbc=[True, True, False]), "NaN"),
        (Atoms("Cu", cell=[3, 0, 20], pbc=[True, True, False]), "zero"),
        (Atoms(cell=[3, 3, 20], pbc=[True, True, False]), "no atoms"),
    ],
)
def test_what_cannot_begin_is_refused(atoms, words) -> None:
    with pytest.raises(StructureError, match=words):
        relax(atoms, Morse())


def lattices() -> dict[str, tuple[str, Atoms]]:
    mos2 = mx2("MoS2", vacuum=6.0)
    square = Atoms("FeSe", [[0, 0, 10], [1.8, 1.8, 11.3]], cell=[3.6, 3.6, 20])
    square.positions[1, :2] = 0  # all on one axis: a square lattice with a single axis of Fe-Se
    rectangular = square.copy()
    rectangular.set_cell([3.6, 4.4, 20])
    centred = square.copy()
    centred.set_cell([[3.6, 1.2, 0], [3.6, -1.2, 0], [0, 0, 20]])
    oblique = square.copy()
    oblique.set_cell([[3.6, 0, 0], [1.1, 4.5, 0], [0, 0, 20]])
    stretched = mos2.copy()
    stretched.set_cell(mos2.cell.array * [1.1, 1, 1], scale_atoms=True)
    return {
        "MoS2": ("hexagonal", mos2),
        "supercell": ("hexagonal", mos2 * (2, 1, 1)),
        "square": ("square", square),
        "rectangular": ("rectangular", rectangular),
        "centred": ("centred rectangular", centred),
        "oblique": ("oblique", oblique),
        "stretched": ("centred rectangular", stretched),
    }


@examples(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(sorted(lattices())),
    seed=st.integers(0, 10**6),
    axis=st.integers(0, 2),
    noise=st.floats(0, 0.004),
)
def test_lattice_type_in_any_orientation(name, seed, axis, noise) -> None:
    expected, atoms = lattices()[name]
    atoms.pbc = (True, True, False)
    atoms = rotated(atoms, seed)
    atoms.rattle(noise, seed=seed)
    atoms.set_cell(np.roll(atoms.cell.array, axis, axis=0))
    atoms.pbc = np.roll(atoms.pbc, axis)
    assert lattice_type(atoms) == expected


def test_lattice_type_changes_where_the_symmetry_does() -> None:
    atoms = fcc111("Cu", (1, 1, 2), a=3.6, vacuum=6.0)
    atoms.set_cell(atoms.cell.array * [1.06, 1, 1], scale_atoms=True)
    result = relax(atoms, EMT())
    assert (result.lattice_before, result.lattice_after) == ("centred rectangular", "hexagonal")
    ends(result, "rebuilt", "layer group", "72")


def test_a_supercell_has_the_lattice_of_its_primitive_cell_and_no_warning(caplog) -> None:
    atoms = fcc111("Cu", (2, 1, 2), a=3.6, vacuum=6.0)
    assert lattice_type(atoms) == "hexagonal"
    assert not caplog.records
