"""Changed files are read right or refused with a sentence; `fuzz.py` says how to try more of them."""

import pytest
from strangers.fuzz import SHARES, Worker, fuzz
from strangers.readers import MISDEEDS


def test_every_changed_file_is_read_right_or_refused():
    report = fuzz(300, seed=0)
    assert not report.bugs, report.bugs
    for kind in SHARES:
        assert report.counts[kind]["right"] and report.counts[kind]["ours"], f"{kind}:\n{report}"


@pytest.fixture(scope="module")
def worker_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("worker")


def test_the_judge_sees_every_misdeed(worker_folder):
    worker = Worker(worker_folder, longest=5.0)
    answers = {misdeed.__name__: worker.ask(misdeed.__name__, 0, 0) for misdeed in MISDEEDS[:-1]}
    worker = Worker(worker_folder)  # the one before hung
    answers[MISDEEDS[-1].__name__] = worker.ask(MISDEEDS[-1].__name__, 0, 0)
    assert {name: answer["outcome"] for name, answer in answers.items()} == dict.fromkeys(answers, "bug"), answers
    assert "hung" in answers["hang"]["bug"] and "died" in answers["die"]["bug"]
    assert answers["write_beside"]["new"] == ["out.txt"]
