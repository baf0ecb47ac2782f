"""What stands for the processes of `mlff2d label` where it is not they that are tested."""

from collections.abc import Iterator
from types import TracebackType
from typing import Any

from mlff2d.training.labelling.worker import Order, Task, label


class PoolHere:
    """The same in this process: starting another takes seconds."""

    def __init__(self, order: Order, count: int, threads: int, timeout: float | None) -> None:
        self._order = order

    def __enter__(self) -> "PoolHere":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def run(self, tasks: Iterator[Task]) -> Iterator[tuple[str, str, dict[str, Any]]]:
        for task in tasks:
            events: list[tuple[str, str, dict[str, Any]]] = []

            def send(status: str, key: str = task.key, to: Any = events, **what: Any) -> None:
                to.append((key, status, what))

            label(self._order, task, send)
            yield from events
