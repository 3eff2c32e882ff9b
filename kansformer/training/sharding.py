"""FSDP2 through transformers: a model spread over processes, and checkpoints that any number of processes can read.

The weights of a checkpoint are gathered into a plain model. Of the optimizer's state every process writes its own part,
as safetensors, and reads what belongs to its part of the parameters, whatever the number of processes was before.
"""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from transformers import PreTrainedModel, TrainingArguments

from kansformer.errors import ConfigError
from kansformer.nn.curve_checks import check_not_shared
from kansformer.nn.curves import curved_modules
from kansformer.safe_io import read_json

OPTIMIZER_FOLDER = "optimizer"
"""Of a checkpoint: the parts of the optimizer's state."""

BY_NAME = StateDictOptions(flatten_optimizer_state_dict=True)  # one entry per parameter and moment, by its full name


def check_shardable(model: PreTrainedModel) -> None:
    """Check that FSDP2 trains a model as one process would.

    With transformers 5.24 a head that shares the weight of the embeddings goes on with the values of the first step:
    the second loss of a small Llama was 3.257 in place of 3.239.

    Raises:
        ConfigError: its head shares the weight of its embeddings, or its layers share their curves.
    """
    check_own_curves(model)
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if isinstance(head, nn.Module) and getattr(head, "weight", None) is getattr(embeddings, "weight", head):
        raise ConfigError(
            "shard=true trains a head wrongly that shares the weight of the embeddings: it goes on with old values. "
            "Set model.config.tie_word_embeddings=false, or train without sharding."
        )


def check_own_curves(model: nn.Module) -> None:
    """Check that every layer has curves of its own, as FSDP needs it.

    Raises:
        ConfigError: layers share their curves.
    """
    instead = "Choose share='slot', or train without FSDP (shard=false)."
    check_not_shared(dict(curved_modules(model)), "FSDP", instead=instead)


def shard_model(model: PreTrainedModel, folder: Path, state: PartialState) -> PreTrainedModel:
    """The same model with its parameters spread over all processes by FSDP2, on any backend of torch.distributed.

    accelerate's own FSDP needs an accelerator: on CPUs it silently keeps a whole model in every process. transformers
    shards a model while it loads one, so the model is written to `folder`, loaded again, and removed.

    Raises:
        ConfigError: transformers is too old.
    """
    try:
        from transformers.distributed import DistributedConfig

        layout = DistributedConfig(fsdp_size=state.num_processes)
    except (ImportError, TypeError):
        raise ConfigError("shard=true needs a newer transformers: pip install --upgrade transformers.") from None
    try:
        if state.is_main_process:
            model.save_pretrained(folder)
        state.wait_for_everyone()
        trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        sharded = type(model).from_pretrained(folder, distributed_config=layout, dtype=model.dtype)
        for name, parameter in sharded.named_parameters():
            parameter.requires_grad_(name in trained)
        state.wait_for_everyone()
    finally:
        if state.is_main_process:
            shutil.rmtree(folder, ignore_errors=True)
    return sharded


@contextmanager
def optimizer_states_allowed(*values: object) -> Iterator[bool]:
    """Inside, a Trainer that is made with these values accepts a sharded model among them, with checkpoints.

    It refuses checkpoints with an optimizer, whose state it does not save for such models; `write_optimizer` does.

    Yields:
        The setting `save_only_model` as it was, which is True inside where there is a sharded model.
    """
    settings = next((value for value in values if isinstance(value, TrainingArguments)), None)
    before = settings is not None and settings.save_only_model
    is_sharded = any(getattr(value, "is_distributed_loading_by_transformers", False) for value in values)
    if settings is None or not is_sharded:
        yield before
        return
    settings.save_only_model = True
    try:
        yield before
    finally:
        settings.save_only_model = before


def read_weights(model: nn.Module, checkpoint: Path) -> None:
    """Load the plain model of a checkpoint, in one file or several, into a sharded one."""
    from safetensors.torch import load_file

    index = checkpoint / "model.safetensors.index.json"
    names = {"model.safetensors"}
    if index.exists():
        names = set(read_json(index)["weight_map"].values())
    for name in sorted(names):
        weights: Mapping[str, Any] = load_file(checkpoint / name)
        set_model_state_dict(model, dict(weights), options=StateDictOptions(full_state_dict=True, strict=False))


def write_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, checkpoint: Path) -> None:
    """Write this process's part of an optimizer's state; all processes have to call it."""
    import torch.distributed.checkpoint as dcp

    tensors = _tensors(get_optimizer_state_dict(model, _plain(optimizer), options=BY_NAME))
    writer = dcp.HuggingFaceStorageWriter(str(checkpoint / OPTIMIZER_FOLDER), save_distributed=True)
    dcp.save(tensors, storage_writer=writer, no_dist=not dist.is_initialized())


def read_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, checkpoint: Path) -> None:
    """Read an optimizer's state, whichever number of processes wrote it; settings such as rates stay as they are."""
    import torch.distributed.checkpoint as dcp

    state: Mapping[str, Any] = get_optimizer_state_dict(model, _plain(optimizer), options=BY_NAME)
    tensors = _tensors(state)
    reader = dcp.HuggingFaceStorageReader(str(checkpoint / OPTIMIZER_FOLDER))
    dcp.load(tensors, storage_reader=reader, no_dist=not dist.is_initialized())
    set_optimizer_state_dict(model, _plain(optimizer), dict(state) | dict[str, Any](tensors), options=BY_NAME)


def _plain(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Without accelerate's wrapper, which leaves out steps between those of accumulation."""
    return optimizer.optimizer if isinstance(optimizer, AcceleratedOptimizer) else optimizer


def _tensors(state: Mapping[str, object]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}
