"""Loads checkpoints with tensor parallelism in each of two processes and writes what they compute.

python tests/hub/tensor_parallel_job.py OUTPUT CHECKPOINT …

One process imports everything and becomes two.
"""

import os
import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM
from transformers.distributed import DistributedConfig
from transformers.models.llama import modeling_llama  # noqa: F401 - before the fork

import kansformer  # noqa: F401 - registers the loader
from kansformer import KANConfig

TOKENS = torch.arange(12).reshape(2, 6)


def main(output, *checkpoints):
    child = os.fork()
    rank = 0 if child else 1
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    Path(output).mkdir(exist_ok=True)
    dist.init_process_group("gloo", init_method=f"file://{output}/store", rank=rank, world_size=2)
    for checkpoint in map(Path, checkpoints):
        folder = Path(output) / checkpoint.name
        options = {"quantization_config": KANConfig()} if checkpoint.name == "plain" else {}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                model = AutoModelForCausalLM.from_pretrained(
                    checkpoint, distributed_config=DistributedConfig(tp_size=2, tp_plan="auto"), **options
                )
            except Exception as error:
                torch.save(f"{type(error).__name__}: {error}", f"{folder}-{rank}.pt")
                continue
        split = sorted(name for name, p in model.named_parameters() if hasattr(p, "placements"))
        messages = [str(warning.message) for warning in caught]
        with torch.no_grad():
            logits = model(TOKENS).logits
        model(TOKENS).logits.square().mean().backward()
        gradients = {
            name: p.grad.full_tensor() if name in split else p.grad
            for name, p in model.named_parameters()
            if "mlp" in name
        }
        model.save_pretrained(folder)
        torch.save((logits, gradients, split, messages), f"{folder}-{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
    if child:
        assert os.waitpid(child, 0)[1] == 0


if __name__ == "__main__":
    main(*sys.argv[1:])
