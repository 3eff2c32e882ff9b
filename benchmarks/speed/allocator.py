"""The two states of glibc's allocator that the CPU suite is measured in.

As it comes, glibc maps every tensor over 32 MB anew at each allocation, and each of its pages faults at the first
touch. With memory kept, freed memory stays with the process. Only the environment sets that, so each takes a process.
"""

import os

from kansformer.training.page_faults import KEEP_MEMORY

KEPT, AS_IT_COMES = "memory kept", "as it comes"

SETTINGS: dict[str, dict[str, str]] = {
    KEPT: KEEP_MEMORY,
    AS_IT_COMES: {},
}
"""Environment variables of each state, in the order in which tables show them."""


def environment_for(allocator: str) -> dict[str, str]:
    """This process's environment with the allocator in one of the states of `SETTINGS`."""
    others = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    return others | SETTINGS[allocator]
