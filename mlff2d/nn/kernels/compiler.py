"""Compiles C where there is a compiler, and keeps what came out."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

_COMPILERS = ("cc", "gcc", "clang")

# From the fastest to what any compiler takes; -fopenmp shares the threads that torch has.
_FLAGS = (
    ("-O3", "-march=native", "-fopenmp"),
    ("-O3", "-march=native"),
    ("-O3", "-fopenmp"),
    ("-O3",),
)
_COMMON = ("-shared", "-fPIC", "-std=gnu11", "-fno-math-errno", "-ffp-contract=fast")


class CompilerError(RuntimeError):
    """No library could be made; the message says why."""


@lru_cache
def load_library(source: str) -> ctypes.CDLL:
    """A library of some C, compiled unless that was done before on such a machine.

    Kept in `cache_folder()`. Raises CompilerError where there is no compiler, or none that
    understands the source.
    """
    compiler = find_compiler()
    name = f"{hashlib.sha256('|'.join([source, *_machine(compiler)]).encode()).hexdigest()[:32]}.so"
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if writable:
        kept = folder / name
        if not kept.exists():
            _compile(compiler, source, kept)
        return _open(kept)
    with tempfile.TemporaryDirectory() as own:
        library = Path(own) / name
        _compile(compiler, source, library)
        return _open(library)


def cache_folder() -> Path:
    """Where compiled code is kept: $MLFF2D_CACHE, else mlff2d in the user's folder of caches."""
    if own := os.environ.get("MLFF2D_CACHE"):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "mlff2d"


def find_compiler() -> str:
    """Path of the C compiler: $CC, else cc, gcc or clang. Raises CompilerError for none."""
    named = os.environ.get("CC")
    for name in [named] if named else _COMPILERS:
        if found := shutil.which(name):
            return found
    raise CompilerError(
        f"there is no C compiler {named!r}, which $CC names"
        if named
        else "there is no C compiler (gcc or clang)"
    )


@lru_cache
def _machine(compiler: str) -> tuple[str, ...]:
    """What compiled code depends on besides its source."""
    stat = os.stat(compiler)
    extensions = platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        extensions = next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        pass
    flags = " ".join([*_COMMON, *(flag for flags in _FLAGS for flag in flags)])
    version = f"{os.path.realpath(compiler)} {stat.st_size} {stat.st_mtime_ns}"
    return version, flags, platform.system(), platform.machine(), extensions


def _compile(compiler: str, source: str, library: Path) -> None:
    # In a folder of its own, and moved when whole: others may be at the same.
    with tempfile.TemporaryDirectory(dir=library.parent, prefix="unfinished-") as folder:
        code, out = Path(folder) / "kernel.c", Path(folder) / library.name
        code.write_text(source)
        for flags in _FLAGS:
            command = [compiler, *_COMMON, *flags, "-o", str(out), str(code), "-lm"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                os.replace(out, library)
                return
    lines = done.stderr.strip().splitlines() or ["it says nothing"]
    words = next((line for line in lines if "error" in line), lines[0])
    raise CompilerError(f"{compiler} could not compile ({words})")


def _open(library: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(library))
    except OSError as error:
        raise CompilerError(f"{library} cannot be loaded ({error})") from error
