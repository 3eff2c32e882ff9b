"""Evaluation mode for as long as something is measured."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from kansformer.nn.hooks import run_eagerly
from kansformer.nn.transaction import all_modules


class ForwardEnded(Exception):  # noqa: N818 - not an error
    """What a hook raises to end a forward pass that is not needed further."""


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and every module's own mode again afterwards: a frozen part of a model in training keeps its."""
    modes = [(module, module.training) for module in all_modules(model)]

    def put_back() -> None:
        for module, training in modes:
            module.training = training

    try:
        try:
            model.eval()
            yield
        finally:
            put_back()
    except BaseException:  # which may have come on the way out
        put_back()
        raise


def run_batches(model: nn.Module, inputs: Tensor | Mapping[str, Tensor] | Iterable) -> None:
    """Call a model in evaluation mode, without gradients, on a tensor or mapping or on each of several; hooks on its
    modules run even if it is compiled."""
    with run_eagerly(), eval_mode(model), torch.no_grad():
        for batch in [inputs] if isinstance(inputs, (Tensor, Mapping)) else inputs:
            model(**batch) if isinstance(batch, Mapping) else model(batch)
