"""Programs that take turns at being timed: each alive in a process, and an environment, of its own.

They are the files of `benchmarks/peers`, with the dialogue of `turns.py` there.
"""

import json
import os
import platform
import resource
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent / "peers"


class Stopped(Exception):
    """A program ended without an answer; the last lines of what it said."""


@dataclass
class Program:
    """A program that waits for its turn."""

    label: str
    process: subprocess.Popen[str]
    log: Path
    facts: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def start(
        cls, label: str, command: Sequence[str], log: Path, threads: int, gigabytes: float = 0.0
    ) -> "Program":
        """Start it and wait until it is ready; with as much address space, where that is given.

        Raises Stopped.
        """
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        environment = os.environ | dict.fromkeys(names, str(threads))
        if label.endswith("(ours)"):  # a checkout that is not installed
            environment["PYTHONPATH"] = str(FOLDER.parent.parent)
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            text=True,
            env=environment,
        )
        if gigabytes:
            limit = int(gigabytes * 2**30)
            resource.prlimit(process.pid, resource.RLIMIT_AS, (limit, limit))
        program = cls(label, process, log)
        program.facts = program._read()
        return program

    def turn(self, words: str = "turn") -> dict[str, Any]:
        """Let it work and return what it says. Raises Stopped."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(words + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # why is in its log
        return self._read()

    def stop(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            last = self.log.read_text().strip().splitlines()[-15:]
            raise Stopped(f"{self.label} stopped:\n" + "\n".join(last))
        answer: dict[str, Any] = json.loads(line)
        return answer


def median(values: Sequence[float]) -> str:
    """Median, smallest and largest."""
    return f"{np.median(values):.1f} ({min(values):.1f}–{max(values):.1f})"


def machine() -> dict[str, Any]:
    """What it ran on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0].partition(":")[2].strip() if names else platform.processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
    }
