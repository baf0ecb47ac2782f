"""Reading what GPAW writes: its text output and its restart file."""

from __future__ import annotations

import numpy as np
import pytest
from ase.io import ulm
from ase.io.trajectory import write_atoms

from mlff2d.training.data.readers import Keys, iter_records
from tests.gpaw_files import gpaw_text
from tests.training_helpers import monolayers

FRAMES = monolayers(1)[:1]


def test_the_free_energy_of_gpaws_text_is_taken(tmp_path):
    """ASE attaches the energy extrapolated to no smearing, to which the forces do not belong."""
    path = tmp_path / "relax.txt"
    path.write_text(gpaw_text(FRAMES[0], -9.5, -9.4) + gpaw_text(FRAMES[0], -9.7, -9.6))
    records = list(iter_records(path, Keys()))
    assert [r.energy for r in records] == [pytest.approx(-9.5), pytest.approx(-9.7)]
    assert {r.trajectory for r in records} == {"relax.txt"}
    np.testing.assert_allclose(records[0].forces, FRAMES[0].get_forces(), atol=1e-5)
    virial = FRAMES[0].get_stress(voigt=False) * FRAMES[0].get_volume()
    np.testing.assert_allclose(records[0].virial, virial, atol=1e-6 * FRAMES[0].get_volume())


def test_a_dispersion_correction_is_part_of_the_free_energy(tmp_path):
    atoms = FRAMES[0]
    rows = "".join(f"{k:3d} {a.symbol:<3} 0.1 0.2 0.3\n" for k, a in enumerate(atoms))
    tail = f"DFTD3\nvdW correction:\nEnergy: -10.4\n\nForces in eV/Ang:\n{rows}\n"
    path = tmp_path / "relax.txt"
    path.write_text(gpaw_text(atoms, -9.5, -9.4, tail))
    (record,) = iter_records(path, Keys())
    assert record.energy == pytest.approx(-9.5 - 1.0)
    np.testing.assert_allclose(record.forces, [[0.1, 0.2, 0.3]] * len(atoms))


def test_gpaws_restart_file(tmp_path):
    path = tmp_path / "relaxed.gpw"
    with ulm.Writer(path, tag="gpaw") as writer:
        writer.write(version=4)
        write_atoms(writer.child("atoms"), FRAMES[0])
        results = writer.child("results")
        results.write(energy=-9.4, free_energy=-9.5)
        results.write("forces", FRAMES[0].get_forces())
        results.write("stress", FRAMES[0].get_stress())
        waves = writer.child("wave_functions")
        waves.write("fermi_levels", np.zeros(1))
    (record,) = iter_records(path, Keys())
    assert record.energy == pytest.approx(-9.5)
    assert record.trajectory == "relaxed.gpw"
    np.testing.assert_allclose(record.forces, FRAMES[0].get_forces())
