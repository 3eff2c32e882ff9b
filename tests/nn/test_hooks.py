import pytest
import torch
from torch._dynamo.testing import CompileCounter

from kansformer.nn.hooks import run_eagerly


def doubled(x):
    return 2 * x


def graphs_of_a_call():
    torch.compiler.reset()
    counter = CompileCounter()
    torch.compile(doubled, backend=counter)(torch.ones(2))
    return counter.frame_count


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["as threads may", "nested"])
def test_compilation_is_on_again_after_the_last_context(order):
    contexts = run_eagerly(), run_eagerly()
    for context in contexts:
        context.__enter__()
    for number in order:
        assert graphs_of_a_call() == 0
        contexts[number].__exit__(None, None, None)
    assert graphs_of_a_call() == 1


def test_a_context_that_fails_ends():
    with pytest.raises(KeyError), run_eagerly():
        raise KeyError
    assert graphs_of_a_call() == 1
