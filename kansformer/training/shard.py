"""Shard a model over the processes by FSDP2, on any backend of torch.distributed, gloo on CPUs included.

accelerate's own FSDP needs an accelerator: on CPUs it silently keeps a whole model in every process. transformers
shards a model while it loads one, so the model is written once and loaded again.
"""

import shutil
from pathlib import Path
from typing import Any

from accelerate import PartialState

from kansformer.errors import ConfigError


def shard_model(model: Any, folder: Path, state: PartialState) -> Any:
    """The same model with its parameters spread over all processes.

    Args:
        model: whole, the same in every process.
        folder: to write to and to read from, on a disk that all processes see; gone afterwards.
        state: of accelerate.

    Raises:
        ConfigError: there is only one process, or this transformers cannot do it.
    """
    if state.num_processes < 2:
        raise ConfigError(
            "shard=true spreads a model over processes, and there is one. Start several: accelerate launch."
        )
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
