"""The sentence about the allocator: after long runs that fault often, with the settings that end it."""

import logging

import pytest

from kansformer.training import page_faults


@pytest.mark.parametrize(
    ("steps", "faults", "said"),
    [(20, 20 * 2**14, True), (20, 20 * 2**14 - 1, False), (19, 10**9, False), (0, 10**9, False), (1000, 0, False)],
)
def test_runs_that_fault_often_are_told_how_to_keep_memory(monkeypatch, caplog, steps, faults, said):
    counts = iter([7, 7 + faults])
    monkeypatch.setattr(page_faults, "count_page_faults", lambda: next(counts))
    with caplog.at_level(logging.WARNING), page_faults.watch_page_faults(lambda: steps):
        pass
    assert ("Each step had 16,384 page faults" in caplog.text and "MALLOC_MMAP_MAX_=0" in caplog.text) == said


def test_pages_are_counted():
    pytest.importorskip("resource", reason="needs the module resource, which Windows lacks")
    before = page_faults.count_page_faults()
    memory = bytearray(b"touched!") * 2**22
    assert page_faults.count_page_faults() > before and len(memory) == 2**25


def test_an_error_of_the_run_passes_through(caplog):
    with pytest.raises(ValueError, match="of the run"), page_faults.watch_page_faults(lambda: 10**6):
        raise ValueError("of the run")
    assert not caplog.records
