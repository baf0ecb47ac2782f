"""`mlff2d generate`: from files to a file, with what was left out and why."""

import gzip
from pathlib import Path

import ase.io
import pytest
from ase import Atoms

from mlff2d import cli
from mlff2d.checkpoint import save
from mlff2d.training.generation import command
from tests.potentials import random_potential
from tests.structures import mos2


@pytest.fixture
def source(tmp_path, monkeypatch) -> Path:
    """Two layers, between them a bulk crystal and a frame that is none, in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    path = Path("in.extxyz")
    ase.io.write(path, [mos2(), Atoms("Cu", cell=[2.5, 2.5, 2.5], pbc=True)])
    with path.open("a") as file:
        file.write('1\nLattice="3 0 0 0 3 0 0 0 15"\nXx nonsense 0 0\n')
    ase.io.write(path, mos2(seed=1), append=True)
    return path


def generate(*arguments: object) -> int:
    return cli.main(["generate", *map(str, arguments)])


def test_one_bad_frame_stops_no_other(source, capsys) -> None:
    assert generate("perturb", source, "--rattle", "0.05,0.1", "--n", 2, "-o", "out.extxyz") == 0
    frames = ase.io.read("out.extxyz", ":")
    assert len(frames) == 8
    assert {frame.info["mode"] for frame in frames} == {"rattled"}
    printed = " ".join(capsys.readouterr().err.split())
    assert "written 8" in printed
    assert "not made 2 in.extxyz, frame 1 (Cu): it is no layer" in printed
    assert not list(Path().glob("*.tmp"))


def test_what_is_there_already_is_left_out(source, capsys) -> None:
    options = ["perturb", source, "--rattle", "0.05", "-o"]
    assert generate(*options, "one.extxyz.gz") == 0
    with gzip.open("one.extxyz.gz", "rt") as file:
        assert file.readline().strip() == "6"
    assert generate(*options, "two.extxyz", "--n", 2, "--against", "one.extxyz.gz") == 0
    assert len(ase.io.read("two.extxyz", ":")) == 2
    assert "the same as frame 0 of one.extxyz.gz" in " ".join(capsys.readouterr().err.split())
    assert generate(*options, "three.extxyz", "--n", 2) == 0
    assert len(ase.io.read("three.extxyz", ":")) == 4
    assert generate(*options, "four.extxyz", "--against", "one.extxyz.gz") == 2
    assert "no structure was made that is worth keeping" in capsys.readouterr().err
    assert not Path("four.extxyz").exists()
    capsys.readouterr()
    assert generate(*options, "five.extxyz", "--against", "in.extxyz") == 0
    printed = " ".join(capsys.readouterr().err.split())
    assert "written 2 all of 6 atoms" in printed
    assert "not read, of --against 1 in.extxyz, frame 2: it cannot be read" in printed
    everything = ["--against", "one.extxyz.gz", "--keep-duplicates"]
    assert generate(*options, "four.extxyz", *everything) == 0


def test_the_same_command_makes_the_same_bytes(source) -> None:
    options = ["perturb", source, "--rattle", "0.05", "--scale", "0.9:1.1", "-o"]
    assert generate(*options, "a.extxyz.gz") == generate(*options, "b.extxyz.gz") == 0
    assert Path("a.extxyz.gz").read_bytes() == Path("b.extxyz.gz").read_bytes()


def test_filters_are_asked_for(source, capsys) -> None:
    options = ["perturb", source, "--rattle", "0.05", "-o", "out.extxyz", "--force"]
    assert generate(*options, "--closest", "0.99") == 2
    assert "atoms too close: 2, for example MoS2" in capsys.readouterr().err
    assert generate(*options, "--max-atoms", "5") == 2
    assert "too many atoms: 2, for example MoS2: 6 atoms, more than 5" in capsys.readouterr().err
    bilayer = mos2() + mos2()
    bilayer.positions[6:, 2] += 6.5
    ase.io.write("bilayer.extxyz", bilayer)
    options[1] = "bilayer.extxyz"
    assert generate(*options) == 0
    assert ase.io.read("out.extxyz").info["apart"] == "it is 2 pieces"
    assert generate(*options, "--apart", "keep") == 0
    assert "apart" not in ase.io.read("out.extxyz").info
    assert generate(*options, "--apart", "drop") == 2
    assert "falls apart: 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["perturb", "in.extxyz", "-o", "out.extxyz"], "give --rattle, --scale, or both"),
        (["perturb", "in.extxyz", "--rattle", "0.1", "-o", "out.cif"], "name the output as one of"),
        (["perturb", "in.extxyz", "--rattle", "0.1", "-o", "in.extxyz"], "in.extxyz exists"),
        (["perturb", "in.extxyz", "--rattle", "0.1", "-o", "no/o.xyz"], "folder does not exist"),
        (["perturb", "none.xyz", "--rattle", "0.1", "-o", "o.xyz"], "there is no such file"),
        (
            ["perturb", "in.extxyz", "--rattle", "0.1", "--strain", "0.1,0.2", "-o", "o.xyz"],
            "--strain has 2 entries and --rattle 1",
        ),
        (
            ["alloy", "in.extxyz", "--sublattice", "Mo", "--species", "Mo", "--sublattice", "S"],
            "--sublattice is given 2 times and --species 1 times",
        ),
        (["random", "--elements", "Mo", "Sx", "--n", "1", "-o", "o.xyz"], "'Sx'"),
        (["random", "--formula", "Mo", "--groups", "2:90", "--n", "1", "-o", "o.xyz"], "1 to 80"),
        (["purturb"], "Did you mean 'perturb'?"),
    ],
)
def test_mistakes_are_one_sentence(source, capsys, arguments, words) -> None:
    assert generate(*arguments, *(() if "-o" in arguments else ("-o", "o.xyz"))) == 2
    printed = capsys.readouterr().err
    assert words in printed
    assert len(printed.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--rattle", "0.1,", "no list of words"),
        ("--rattle", "0.2:0.1", "ends below its beginning"),
        ("--rattle", "-0.1", "not a positive number"),
        ("--strain", "-0.1", "is negative"),
        ("--supercell", "2y2", "not a whole number"),
    ],
)
def test_values_are_checked(source, capsys, option, value, words) -> None:
    with pytest.raises(SystemExit):
        generate("perturb", source, f"{option}={value}", "-o", "o.xyz")
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("kind", command.COMMANDS)
def test_help_teaches_with_examples(capsys, kind) -> None:
    with pytest.raises(SystemExit) as ended:
        generate(kind, "--help")
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert f"mlff2d generate {kind}" in printed.split("examples:")[1]


def test_kinds_by_the_command(source, capsys) -> None:
    pytest.importorskip("icet")
    from ase.build import mx2

    layer = mx2("MoS2", vacuum=8)
    layer.pbc = (True, True, False)
    ase.io.write("mos2.extxyz", layer)
    shared = ["--sublattice", "Mo", "--species", "Mo,W", "--phase", "1H"]
    assert generate("alloy", "mos2.extxyz", *shared, "--max-sites", 2, "-o", "a.extxyz") == 0
    configs = [atoms.info["config"] for atoms in ase.io.read("a.extxyz", ":")]
    assert configs == ["MoS2-1H", "WS2-1H", "MoWS2-1H-c2-000"]
    drawn = ["--random", 3, "--cells", 4, 9, "--x", "0.25,0.5"]
    assert generate("alloy", "mos2.extxyz", *shared, *drawn, "-o", "r.extxyz") == 0
    sizes = [len(atoms) for atoms in ase.io.read("r.extxyz", ":")]
    assert set(sizes) == {12, 27}
    assert generate("janus", "mos2.extxyz", "--species", "Se,Te", "-o", "j.extxyz") == 0
    assert [a.info["system"] for a in ase.io.read("j.extxyz", ":")] == ["MoSSe", "MoSTe"]
    formula = ["--formula", "MoS2", "--atoms", "3", "--groups", "1:20", "--n", 2]
    assert generate("random", *formula, "-o", "x.extxyz") == 0
    assert [len(atoms) for atoms in ase.io.read("x.extxyz", ":")] == [3, 3]


def test_hot_by_the_command(source, capsys) -> None:
    save(random_potential("m3gnet"), Path("model.pt"))
    sheet = Atoms("Cu", cell=[2.6, 2.6, 20], positions=[[0, 0, 10]], pbc=(True, True, False))
    unknown = sheet.copy()
    unknown.numbers[:] = 92
    unknown.info["material"] = "my-sheet"
    ase.io.write("cu.extxyz", [sheet, unknown, Atoms("Cu", cell=[2.5, 2.5, 2.5], pbc=True)])
    options = ["--model", "model.pt", "--supercell", "2x2", "--frames", 2, "--every", 20]
    options += ["-o", "hot.extxyz", "--apart"]
    assert generate("hot", "cu.extxyz", *options, "mark") == 0
    frames = ase.io.read("hot.extxyz", ":")
    assert [frame.info["temperature"] for frame in frames] == [900.0, 1500.0]
    assert not Path("hot.extxyz.progress").exists()
    printed = " ".join(capsys.readouterr().err.split())
    assert "not made 2 cu.extxyz, frame 2 (Cu): it is no layer" in printed
    ase.io.write("cu.extxyz", [sheet, unknown])
    assert generate("hot", "cu.extxyz", *options, "keep", "--force") == 0
    assert "1 my-sheet: the model has never seen U" in " ".join(capsys.readouterr().err.split())


def test_hot_frames_begun_otherwise(source, capsys, monkeypatch) -> None:
    def mover(structures, potential, output, **settings):
        if output.exists():
            raise ValueError("begun otherwise: add --restart to begin anew")
        return [[atoms] for atoms in structures], [], None

    monkeypatch.setattr(cli, "_move_many", mover)
    left = Path("hot.extxyz.progress/batch-0000.extxyz")
    left.parent.mkdir()
    left.write_text("")
    options = ["hot", source, "--frames", 1, "-o", "hot.extxyz"]
    assert generate(*options) == 2
    assert "add --restart" in capsys.readouterr().err
    assert generate(*options, "--restart") == 0
    assert not left.parent.exists()


def test_a_signal_leaves_what_was_made(source, monkeypatch) -> None:
    import os
    import signal

    from mlff2d.training.generation import perturb

    def slow(*arguments):
        yield from real(*arguments)
        os.kill(os.getpid(), signal.SIGTERM)

    real = perturb.perturbed
    monkeypatch.setattr(perturb, "perturbed", slow)
    assert generate("perturb", source, "--rattle", "0.1", "-o", "out.extxyz") == 130
    assert len(ase.io.read("out.extxyz", ":")) >= 1


def test_compounds_kept_for_a_test_are_left_out(source, capsys) -> None:
    held_out = mos2().repeat((2, 1, 1))
    ase.io.write("held.extxyz", held_out)
    janus = ["janus", source, "--species", "Se", "-o"]
    assert generate(*janus, "one.extxyz", "--held-out", "held.extxyz") == 0
    options = ["perturb", source, "--rattle", "0.05", "-o", "two.extxyz"]
    assert generate(*options, "--held-out", "held.extxyz") == 2
    assert "held out: 2, for example MoS2: kept for a test" in capsys.readouterr().err
