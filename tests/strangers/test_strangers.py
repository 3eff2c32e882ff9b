"""Changed files are read right or refused with a sentence; `fuzz.py` says how to try more of them."""

import pytest
from strangers.fuzz import SHARES, Worker, fuzz
from strangers.readers import MISDEEDS


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    worker = Worker(tmp_path_factory.mktemp("worker"))
    yield worker
    worker.end()


def test_every_changed_file_is_read_right_or_refused(worker):
    report = fuzz(300, seed=0, first=worker)
    assert not report.bugs, report.bugs
    for kind in SHARES:
        assert report.counts[kind]["right"] and report.counts[kind]["ours"], f"{kind}:\n{report}"


def test_the_judge_sees_every_misdeed(worker):
    worker.longest = 5.0
    answers = {misdeed.__name__: worker.ask(misdeed.__name__, 0, 0) for misdeed in MISDEEDS}
    assert {name: answer["outcome"] for name, answer in answers.items()} == dict.fromkeys(answers, "bug"), answers
    assert "hung" in answers["hang"]["bug"] and "died" in answers["die"]["bug"]
    assert answers["write_beside"]["new"] == ["out.txt"]
