"""The loader is registered when transformers' quantizers are imported: once, whoever imports them."""

import sys
import threading
from functools import partial

import pytest
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING, AutoHfQuantizer

from kansformer.hub import autoload, register_loader
from kansformer.hub.quantizer import CurveLoader, RecordReader

NAME = "module_that_the_hook_waits_for"


@pytest.fixture
def waiting(monkeypatch, tmp_path):
    """The hook installed for a module of this test; gives the list of what was registered when."""
    (tmp_path / f"{NAME}.py").write_text("import time\ntime.sleep(0.05)\nvalue = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setattr(autoload, "TARGET", NAME)
    calls = []
    monkeypatch.setattr(autoload, "register_now", lambda: calls.append(sys.modules[NAME].value))
    register_loader()
    yield calls
    sys.modules.pop(NAME, None)


def hooks():
    return [finder for finder in sys.meta_path if type(finder).__name__ == "KansformerLoaderHook"]


def test_it_registers_after_the_import_and_takes_itself_away(waiting):
    assert len(hooks()) == 1 and not waiting
    module = __import__(NAME)
    assert waiting == [1] and not hooks()
    assert type(module.__loader__).__name__ == type(module.__spec__.loader).__name__ == "SourceFileLoader"


def test_asking_twice_registers_once(waiting):
    register_loader()
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


def test_two_threads_register_once(waiting):
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


def test_a_module_that_is_there_registers_at_once(waiting):
    __import__(NAME)
    register_loader()
    assert waiting == [1, 1] and not hooks()


def test_registering_again_replaces(monkeypatch):
    for _ in range(3):
        register_loader()
    assert AUTO_QUANTIZER_MAPPING["kansformer"] is CurveLoader
    assert AUTO_QUANTIZATION_CONFIG_MAPPING["kansformer"] is RecordReader
    assert not isinstance(AutoHfQuantizer.merge_quantization_configs.args[0], partial)
