"""Memory that is freed stays with the process."""

import subprocess
import sys

import pytest

CODE = """
import resource
import sys
import torch
from mlff2d.md.allocator import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        tensors = [torch.ones(2_000_000) for _ in range(4)]
        del tensors
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

torch.set_num_threads(1)
faults()
before = faults()
kept = keep_freed_memory()
faults()
print(kept, before, faults())
"""


def test_what_is_freed_is_not_fetched_again() -> None:
    """Four times 32 MB are 31,000 pages."""
    out = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    kept, before, after = out.stdout.split()
    if kept == "False":
        pytest.skip("not GNU's C library")
    assert int(after) <= 0.1 * int(before)  # which the system may have kept by itself
