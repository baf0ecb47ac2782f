"""One run at a time in a folder."""

from __future__ import annotations

import fcntl
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlff2d.files import naming

from .config import ConfigError


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Hold a folder for this process; the system lets go of it when the process ends, however.

    Raises ConfigError where another process holds it, OSError where it cannot be made.
    """
    with naming(run_dir):
        run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise ConfigError(
                f"{run_dir} is in use by {holder}; wait for it, or give another run_dir."
            ) from error
        except OSError:  # a file system that knows no locks: nothing to hold on to
            pass
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        yield
