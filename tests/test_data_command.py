"""`mlff2d data`: building that survives being killed, and what users are told."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import ase.io
import h5py
import pytest

from mlff2d import cli
from mlff2d.training.data import convert as convert_module
from mlff2d.training.data.convert import convert, open_sources
from mlff2d.training.data.dataset import Dataset
from mlff2d.training.data.progress import Position
from mlff2d.training.data.record import Keys
from mlff2d.training.data.store import read_head
from tests.data_sources import FRAMES, data, write_sources
from tests.training_helpers import Killed, monolayers

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def sources(tmp_path, monkeypatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    return write_sources()


def everything(path: Path | str) -> dict[str, object]:
    """All that a file holds, attributes included."""
    with h5py.File(path) as file:
        found: dict[str, object] = {f"head {key}": value for key, value in file.attrs.items()}
        for name in file:
            values = file[name][:]
            found[name] = values.tolist() if values.dtype == object else values.tobytes()
    return found


def small_pieces(monkeypatch) -> None:
    monkeypatch.setattr(convert_module, "_CHUNK", 5)


def test_build_says_what_it_found(sources, capsys) -> None:
    assert data("build", *sources, "-o", "all.h5") == 0
    printed = capsys.readouterr().err
    for words in ("36", "34", "no usable labels", "no usable structure", "first.extxyz, frame 11"):
        assert words in printed
    assert "Ni Cu Pd Ag Pt Au" in printed
    assert "energy 34, forces 34, stress in the plane 34" in printed
    assert sorted(p.name for p in Path().iterdir()) == ["all.h5", *sources]
    head = read_head(Path("all.h5"))
    assert [source["name"] for source in head.sources] == sources
    assert head.summary.n_taken == head.n_frames == 34


def test_nothing_is_replaced_unless_it_is_said(sources, capsys) -> None:
    Path("all.h5").write_text("precious")
    assert data("build", *sources, "-o", "all.h5") == 2
    assert "--force" in capsys.readouterr().err
    assert Path("all.h5").read_text() == "precious"
    assert data("build", *sources, "-o", "all.h5", "--force") == 0
    assert read_head(Path("all.h5")).n_frames == 34
    assert data("build", *sources, "-o", sources[0], "--force") == 2
    assert "both read and written" in capsys.readouterr().err
    assert data("merge", "all.h5", "-o", "all.h5", "--force") == 2
    assert "both read and written" in capsys.readouterr().err
    assert data("build", *sources, "-o", "nowhere/all.h5") == 2
    assert "there is no folder nowhere" in capsys.readouterr().err


@pytest.mark.parametrize("after", [0, 3, 8, 19, 25, 33])
def test_a_build_that_stops_anywhere_goes_on(sources, monkeypatch, after) -> None:
    small_pieces(monkeypatch)
    files, whole = [Path(name) for name in sources], Path("whole.h5")
    convert(files, whole, Keys())
    original, done = convert_module.columns_of, []
    made: list[int] = []

    def or_die(*arguments):
        if sum(done) >= after:
            raise Killed
        done.append(len(arguments[0]))
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(convert_module, "columns_of", or_die)
        with pytest.raises(Killed):
            convert(files, Path("killed.h5"), Keys())
    assert not Path("killed.h5").exists()

    def counted(*arguments):
        made.append(len(arguments[0]))
        return original(*arguments)

    monkeypatch.setattr(convert_module, "columns_of", counted)
    convert(files, Path("killed.h5"), Keys())
    assert everything("killed.h5") == everything(whole)
    assert sum(made) == 34 - sum(done), "what was done before is not done again"
    assert not list(Path().glob("*.parts"))


def test_killed_for_good_it_goes_on(sources, tmp_path) -> None:
    """The process itself is killed, in the middle of a source, as often as it takes."""
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from mlff2d.training.data import convert as m, record\n"
        "m._CHUNK = 3\n"
        "make = m.columns_of\n"
        "def slow(*args):\n"
        "    time.sleep(0.2)\n"
        "    return make(*args)\n"
        "m.columns_of = slow\n"
        f"m.convert([Path(x) for x in {sources}], Path('killed.h5'), record.Keys())\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pieces: list[int] = []
    parts = tmp_path / "killed.h5.parts"
    for n_kills in (2, 5):
        process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=environment)
        while len(list(parts.glob("0*.npz"))) < n_kills:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        pieces.append(len(list(parts.glob("0*.npz"))))
        assert not Path("killed.h5").exists()
    assert pieces[0] < pieces[1]
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    convert([Path(name) for name in sources], Path("whole.h5"), Keys())
    assert everything("killed.h5") == everything("whole.h5")


def test_sources_that_change_begin_anew(sources, monkeypatch) -> None:
    small_pieces(monkeypatch)
    files = [Path(name) for name in sources]
    original = convert_module.columns_of

    def dies_late(records, source):
        if source == 1:
            raise Killed
        return original(records, source)

    with monkeypatch.context() as patch:
        patch.setattr(convert_module, "columns_of", dies_late)
        with pytest.raises(Killed):
            convert(files, Path("all.h5"), Keys())
    ase.io.write(sources[0], FRAMES[:7])
    convert(files, Path("all.h5"), Keys())
    convert(files, Path("fresh.h5"), Keys())
    assert everything("all.h5") == everything("fresh.h5")


def test_a_file_that_is_being_made_is_not_made_twice(sources, capsys) -> None:
    fcntl = pytest.importorskip("fcntl")
    folder = Path("all.h5.parts")
    folder.mkdir()
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert data("build", *sources, "-o", "all.h5") == 2
    assert "another process is making this file" in capsys.readouterr().err


@pytest.mark.parametrize("the_other", ["finishes", "is killed"])
def test_two_trainings_on_new_data_make_its_file_once(sources, the_other, monkeypatch) -> None:
    fcntl = pytest.importorskip("fcntl")
    files = [Path(name) for name in sources]
    (path,), _ = open_sources(files, Path("cache"), "material")
    path.rename("made.h5")
    expected = everything("made.h5")
    folder = path.with_name(f"{path.name}.parts")
    folder.mkdir()
    lock = (folder / "lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)

    def end() -> None:
        if the_other == "finishes":
            Path("made.h5").rename(path)
            shutil.rmtree(folder)
        lock.close()

    timer = threading.Timer(0.5, end)
    timer.start()
    if the_other == "finishes":
        monkeypatch.setattr(convert_module, "iter_records", lambda *args: pytest.fail("read"))
    assert open_sources(files, Path("cache"), "material")[0] == [path]
    timer.join()
    assert everything(path) == expected
    assert not folder.exists()


def test_no_room_is_one_sentence_and_the_rest_is_kept(sources, tmp_path) -> None:
    code = (
        "import sys\n"
        "from mlff2d import cli\n"
        "from mlff2d.training.data import convert as m\n"
        "m._CHUNK = 5\n"
        f"sys.exit(cli.main(['data', 'build', *{sources}, '-o', 'all.h5']))\n"
    )

    def run(limit: int | None) -> subprocess.CompletedProcess[str]:
        def small_files() -> None:
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        return subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            preexec_fn=small_files,
            capture_output=True,
            text=True,
            check=False,
        )

    for limit in (4_000, 50_000):  # not one piece, and not the file put together
        done = run(limit)
        assert done.returncode == 2, done.stderr
        assert done.stderr.count("\n") == 1
        assert "all.h5 could not be written (File too large); make room" in done.stderr
        assert not Path("all.h5").exists()
    assert len(list(Path("all.h5.parts").glob("0*.npz"))) > 3
    assert run(None).returncode == 0
    assert read_head(Path("all.h5")).n_frames == 34


def test_a_file_named_twice_in_a_config_is_not_read_four_times(sources) -> None:
    paths, summary = open_sources([Path(sources[1])] * 2, Path("cache"), "material")
    assert len(paths) == 1
    assert len(Dataset(paths, 4.0)) == summary.n_taken == 32


def test_a_source_that_is_given_twice_is_told_once(sources, capsys) -> None:
    assert data("build", sources[1], sources[1], "-o", "all.h5") == 0
    sentence = "second.extxyz in all.h5 has the same content as second.extxyz in all.h5."
    assert sentence in " ".join(capsys.readouterr().err.split())
    assert open_sources([Path("all.h5")], Path(), "material")[1].notes == [sentence]


def test_pieces_are_small_where_reading_is_slow(sources, monkeypatch) -> None:
    files = [Path(name) for name in sources]
    convert(files, Path("whole.h5"), Keys())
    made: list[int] = []
    original = convert_module.columns_of
    monkeypatch.setattr(convert_module, "_SECONDS", -1)
    monkeypatch.setattr(
        convert_module, "columns_of", lambda *args: (made.append(len(args[0])), original(*args))[1]
    )
    convert(files, Path("slow.h5"), Keys())
    assert made == [1] * 34
    assert everything("slow.h5") == everything("whole.h5")


def test_a_file_that_was_built_for_something_else(sources) -> None:
    convert([Path(sources[1])], Path("a.h5"), Keys("system"))
    with pytest.raises(ValueError, match="material key 'system', and 'material' is wanted"):
        open_sources([Path("a.h5")], Path(), "material")
    with pytest.raises(ValueError, match="property 'none', and 'gap' is wanted"):
        open_sources([Path("a.h5")], Path(), "system", target="gap")
    assert open_sources([Path("a.h5")], Path(), "system")[0] == [Path("a.h5")]


def test_built_and_other_files_are_one_set(sources) -> None:
    convert([Path(sources[1])], Path("b.h5"), Keys())
    paths, summary = open_sources([Path("b.h5"), Path(sources[0])], Path("cache"), "material")
    assert paths[0] == Path("b.h5")
    assert paths[1].parent == Path("cache")
    assert (summary.n_frames, summary.n_taken) == (36, 34)
    assert Dataset(paths, 4.0).name(20).startswith("first.extxyz frame 5")
    assert data("build", "b.h5", "-o", "c.h5") == 2


def test_how_far_reading_is(tmp_path) -> None:
    if not Path("/proc/self/fdinfo").is_dir():
        pytest.skip("needs /proc")
    files = [tmp_path / "a.xyz", tmp_path / "b.xyz"]
    for file in files:
        file.write_bytes(b"x" * 1000)
    position = Position(files)
    assert position.total == 2000
    with files[0].open("rb", buffering=0) as file:
        file.read(300)
        assert position.now() == 300
    with files[1].open("rb", buffering=0) as file:
        file.read(500)
        assert position.now() == 1500
    assert position.now() == 1500, "a file that was closed was read"
    assert Position([tmp_path / "a.xyz", tmp_path.joinpath("c.db")][:1]).total == 1000
    files[1].rename(tmp_path / "b.db")
    assert Position([tmp_path / "b.db"]).total is None


def test_a_source_that_cannot_be_used_does_not_stop_the_others(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    ase.io.write("good.extxyz", monolayers(1))
    bare = monolayers(1)[:3]
    for atoms in bare:
        atoms.calc = None
    ase.io.write("bare.extxyz", bare)
    Path("broken.traj").write_bytes(b"no trajectory")
    assert (
        cli.main(["data", "build", "bare.extxyz", "good.extxyz", "broken.traj", "-o", "d.h5"]) == 0
    )
    printed = " ".join(capsys.readouterr().err.split())
    assert "A source is left out: bare.extxyz: no frame can be used" in printed
    assert "A source is left out: broken.traj" in printed
    assert len(Dataset(Path("d.h5"), 4.0)) == 36
    assert cli.main(["data", "build", "bare.extxyz", "broken.traj", "-o", "e.h5"]) == 2
    assert "none of the sources has a usable frame" in capsys.readouterr().err
    assert not Path("e.h5").exists()
