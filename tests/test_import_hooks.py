"""Something is done once another package's module has been imported: once, whoever imports it."""

import sys
import threading

import pytest

from kansformer.import_hooks import after_import

NAME = "module_that_the_hook_waits_for"


class Calls(list):
    """Values of the module at the time of every action."""

    def act(self):
        self.append(sys.modules[NAME].value)

    def act_twice(self):
        self.append(2 * sys.modules[NAME].value)


@pytest.fixture
def waiting(monkeypatch, tmp_path):
    """The hook installed for a module of this test; gives the list of what was seen when."""
    (tmp_path / f"{NAME}.py").write_text("import time\ntime.sleep(0.05)\nvalue = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    calls = Calls()
    after_import(NAME, calls.act)
    yield calls
    sys.modules.pop(NAME, None)


def hooks():
    return [finder for finder in sys.meta_path if getattr(finder, "module", None) == NAME]


def test_it_acts_after_the_import_and_takes_itself_away(waiting):
    assert len(hooks()) == 1 and not waiting
    module = __import__(NAME)
    assert waiting == [1] and not hooks()
    assert type(module.__loader__).__name__ == type(module.__spec__.loader).__name__ == "SourceFileLoader"


def test_asking_twice_acts_once(waiting):
    after_import(NAME, waiting.act)
    assert len(hooks()) == 1
    __import__(NAME)
    assert waiting == [1]


def test_a_failed_import_can_be_tried_again(waiting, tmp_path):
    file = tmp_path / f"{NAME}.py"
    file.write_text("raise OSError('first')")
    with pytest.raises(OSError, match="first"):
        __import__(NAME)
    assert len(hooks()) == 1 and not waiting
    file.write_text("value = 'second time'")
    __import__(NAME)
    assert waiting == ["second time"] and not hooks()


def test_two_threads_act_once(waiting):
    threads = [threading.Thread(target=__import__, args=(NAME,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert waiting == [1] and not hooks()


def test_other_modules_pass_by(waiting):
    assert hooks()[0].find_spec("another_module", None) is None
    with pytest.raises(ImportError):
        __import__("a_module_that_does_not_exist")
    assert not waiting


def test_a_module_that_is_there_acts_at_once(waiting):
    __import__(NAME)
    after_import(NAME, waiting.act)
    assert waiting == [1, 1] and not hooks()


def test_two_actions_wait_for_one_module(waiting):
    after_import(NAME, waiting.act_twice)
    assert len(hooks()) == 2
    __import__(NAME)
    assert sorted(waiting) == [1, 2] and not hooks()
