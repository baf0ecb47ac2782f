"""A screen spread over processes ends as one in a single process, whichever of them die."""

from __future__ import annotations

import json
import os
import pickle
import signal
import sys
import time
from pathlib import Path

import pytest
from distributed import Client, LocalCluster

from mlff2d.md.screen import spread as module
from mlff2d.md.screen.cluster import cores, local_cluster, remote_cluster, threads_each
from mlff2d.md.screen.compose import compose
from mlff2d.md.screen.spread import spread
from mlff2d.md.screen.worker import Order, relax_block
from tests.screens import Wandering, open_folder, outputs_in, screen, write_sheets

TOTAL, BLOCK, BLOCKS = 40, 8, range(5)


class Slow(Wandering):
    """Takes a while for each step."""

    def __init__(self, pause: float = 0.01) -> None:
        super().__init__()
        self.pause = pause

    def _turn(self, atoms, structures):
        time.sleep(self.pause)
        return super()._turn(atoms, structures)


class Deadly(Wandering):
    """Structure 11 ends the process."""

    def entered(self, key, atoms):
        if key == 11:
            os.kill(os.getpid(), signal.SIGKILL)


class Full(Wandering):
    """There is no room at structure 11."""

    def entered(self, key, atoms):
        if key == 11:
            raise OSError("there is no room")


class Broken(Wandering):
    """Cannot be made on a worker."""

    def __reduce__(self):
        return _import_nothing, ()


def _import_nothing():
    import nothing_of_this_name  # noqa: F401


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    """A folder with an input of 40 structures, and what one process makes of it."""
    folder = tmp_path_factory.mktemp("run")
    screen(write_sheets(folder / "in.extxyz", TOTAL), outputs_in(folder), block=BLOCK)
    return folder


@pytest.fixture(scope="module")
def client():
    with local_cluster(2) as client:
        yield client


@pytest.fixture
def begun(uninterrupted, tmp_path):
    """The folder and the structures of a screen that has begun."""
    return open_folder(uninterrupted / "in.extxyz", outputs_in(tmp_path), block=BLOCK)


def assert_same(folder: Path, whole: Path) -> None:
    for ours, theirs in zip(outputs_in(folder).paths, outputs_in(whole).paths, strict=True):
        assert ours.read_bytes() == theirs.read_bytes(), ours.name


def in_this_process(**kwargs) -> LocalCluster:
    return LocalCluster(processes=False, dashboard_address=":0", threads_per_worker=1, **kwargs)


def test_two_processes(client, begun, uninterrupted, tmp_path):
    seen, steps = [], []

    def report(records, structure_steps):
        seen.extend(record.index for record in records)
        steps.append(structure_steps)

    assert spread(client, *begun, BLOCKS, Slow(), threads=1, report=report) == []
    folder, _ = begun
    compose(folder, outputs_in(tmp_path))
    assert_same(tmp_path, uninterrupted)
    assert sorted(seen) == list(range(TOTAL)), "each was reported once"
    taken = sum(int(record.row.steps or 0) for record in folder.records())
    assert 0.8 * taken < sum(steps) <= taken, "from all workers"
    processes = client.run(os.getpid).values()
    assert os.getpid() not in processes
    assert len(set(processes)) == 2


def test_a_worker_that_is_killed(client, begun, uninterrupted, tmp_path):
    killed = []

    def report(records, structure_steps):
        if records and not killed:
            killed.append(next(iter(client.run(os.getpid).values())))
            os.kill(killed[0], signal.SIGKILL)

    assert spread(client, *begun, BLOCKS, Slow(), report=report) == []
    compose(begun[0], outputs_in(tmp_path))
    assert killed
    assert_same(tmp_path, uninterrupted)


def test_an_interrupt_leaves_the_blocks_to_whoever_goes_on(client, begun, uninterrupted, tmp_path):
    class Interrupted(BaseException):
        pass

    def interrupt(records, structure_steps):
        if records:
            raise Interrupted

    with pytest.raises(Interrupted):
        spread(client, *begun, BLOCKS, Slow(0.5), report=interrupt)  # 10 s and more for a block
    folder, _ = begun
    done = [folder.n_done(k) for k in BLOCKS]
    assert 0 < sum(done) < TOTAL
    deadline = time.monotonic() + 6
    journals = []
    while len(journals) < len(BLOCKS) and time.monotonic() < deadline:
        journals += [j for j in [folder.claim(len(journals))] if j]
        time.sleep(0.05)
    assert len(journals) == len(BLOCKS), "the workers have put the blocks down"
    for journal in journals:
        with journal:
            pass
    assert spread(client, *begun, BLOCKS, Slow()) == []
    compose(folder, outputs_in(tmp_path))
    assert_same(tmp_path, uninterrupted)


def test_a_block_in_other_hands(client, begun, monkeypatch):
    monkeypatch.setattr(module, "_RETRIES", 2)
    monkeypatch.setattr(module, "_RETRY", 0.1)
    folder, _ = begun
    with folder.claim(3):
        assert spread(client, *begun, BLOCKS, Wandering()) == [3]
    assert spread(client, *begun, BLOCKS, Wandering()) == []


def test_workers_that_cannot(client, begun, tmp_path):
    folder, sources = begun
    with pytest.raises(OSError, match="there is no room"):
        spread(client, folder, sources, BLOCKS, Full())
    with pytest.raises(ConnectionError, match=r"has another environment .*nothing_of_this_name"):
        spread(client, folder, sources, BLOCKS, Broken())
    order = Order(folder, "of another folder", pickle.dumps(Wandering()), None, "steps")
    with pytest.raises(ConnectionError, match=r"does not see the run folder .*out\.progress; put"):
        client.submit(relax_block, order, 0, b"", pure=False).result()


@pytest.mark.slow
def test_a_block_that_workers_die_of(client, begun, monkeypatch):
    monkeypatch.setattr(module, "_DEATHS", 2)
    with pytest.raises(ConnectionError, match="2 workers in a row died of structures 8 to 15 "):
        spread(client, *begun, BLOCKS, Deadly())
    folder, _ = begun
    assert [folder.is_done(k) for k in BLOCKS] == [True, False, True, True, True]


def test_clusters_by_address_and_by_file(client, begun, tmp_path):
    file = tmp_path / "scheduler.json"
    file.write_text(json.dumps({"address": client.scheduler.address}))
    for where in (client.scheduler.address, str(file)):
        with remote_cluster(where) as other:
            assert set(other.nthreads()) == set(client.nthreads())
    file.unlink()
    with (
        pytest.raises(ValueError, match=r"no scheduler file .*--scheduler-file"),
        remote_cluster(str(file)),
    ):
        pass


def test_a_scheduler_that_is_not_there(monkeypatch):
    monkeypatch.setattr("mlff2d.md.screen.cluster._CONNECT", 0.5)
    with (
        pytest.raises(ConnectionError, match="no dask scheduler answers at tcp"),
        remote_cluster("tcp://127.0.0.1:9"),
    ):
        pass
    with pytest.raises(ValueError, match="names no dask scheduler"), remote_cluster("udp://host:1"):
        pass


def test_a_cluster_without_workers(begun):
    with (
        in_this_process(n_workers=0) as cluster,
        Client(cluster) as client,
        pytest.raises(ConnectionError, match="has had no worker for 0 s; what is finished"),
    ):
        spread(client, *begun, BLOCKS, Wandering(), patience=0.4)


def test_a_scheduler_that_is_lost(begun):
    cluster = in_this_process(n_workers=1)
    with Client(cluster, timeout=1) as client:

        def report(records, structure_steps):
            if records:
                cluster.close()

        with pytest.raises(ConnectionError, match="scheduler is lost; what is finished is kept"):
            spread(client, *begun, BLOCKS, Slow(), report=report)


def test_threads(monkeypatch):
    monkeypatch.setattr("mlff2d.md.screen.cluster.cores", lambda: 8)
    assert [threads_each(n) for n in (1, 3, 8, 20)] == [8, 2, 1, 1]
    assert cores() >= 1


def test_the_package_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ValueError, match=r"mlff2d\[dask\]"), local_cluster(2):
        pass
