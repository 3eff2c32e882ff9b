"""What the allocator costs a run on a CPU: memory that is mapped anew in every step, and the settings that keep it."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "10000000000", "MALLOC_TOP_PAD_": "500000000"}
"""Environment variables with which glibc maps no tensor anew. They must be set before the process starts."""

MIN_STEPS, MIN_FAULTS = 20, 2**14
"""Steps of a run, and page faults in each, from which it is worth a sentence: 64 MiB of small pages."""

_log = logging.getLogger(__name__)


@contextmanager
def watch_page_faults(steps: Callable[[], int]) -> Iterator[None]:
    """Context of a run's steps; at its end one sentence in the log, if they fault often.

    Args:
        steps: how many steps the context held, asked at its end.
    """
    before = count_page_faults()
    yield
    faults = (count_page_faults() - before) / max(1, steps())
    if steps() >= MIN_STEPS and faults >= MIN_FAULTS:
        _log.warning(
            "Each step had %s page faults: glibc maps large tensors anew each time. Starting the command with "
            "%s before it keeps memory, and is often faster.",
            f"{faults:,.0f}",
            " ".join(map("=".join, KEEP_MEMORY.items())),
        )


def count_page_faults() -> int:
    """Pages that this process has touched for the first time, all threads together; 0 where the system counts none."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
