"""The row of a run, in the layout of the files in `method_comparison/MetaMathQA/results` of huggingface/peft."""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy
import torch
from comparison_settings import Settings
from curve_training import MemoryLog
from huggingface_hub import HfApi

PACKAGES = ("transformers", "peft", "datasets", "bitsandbytes", "torch", "kansformer")


def train_config(settings: Settings) -> dict[str, Any]:
    """PEFT's `train_config` of a run: what was set, and what this program does not vary."""
    training = settings.training
    return {
        "model_id": settings.model,
        "dtype": training.dtype,
        "max_seq_length": training.max_seq_length,
        "batch_size": training.batch_size,
        "batch_size_eval": training.batch_size_eval,
        "max_steps": training.max_steps,
        "eval_steps": training.eval_steps,
        "compile": False,
        "use_gc": False,
        "query_template": training.query_template,
        "seed": training.seed,
        "grad_norm_clip": training.grad_norm_clip,
        "optimizer_type": "AdamW",
        "optimizer_kwargs": {"lr": training.lr, "weight_decay": 0.0},
        "lr_scheduler": "cosine",
        "use_amp": False,
        "autocast_adapter_dtype": True,
        "generation_kwargs": {"max_length": training.max_length, "max_new_tokens": training.max_new_tokens},
        "attn_implementation": training.attn_implementation,
        "init_kv_cache_prefix": None,
    }


def method_config(settings: Settings, curve_lrs: list[float]) -> dict[str, Any]:
    """What stands in the place of a PEFT method's config."""
    return {
        "peft_type": "KANSFORMER",
        "base_model_name_or_path": settings.model,
        **settings.kan_config.to_dict(),
        "domain": "data",
        "domain_quantile": settings.curves.quantile,
        "domain_batches": settings.curves.calibration_batches,
        "curve_learning_rates": curve_lrs,
    }


def train_info(
    memory: MemoryLog,
    *,
    train_time: float,
    file_size: int,
    num_trainable_params: int,
    num_total_params: int,
    metrics: list[dict[str, float]],
) -> dict[str, Any]:
    """Figures of a finished run, with the statistics of its memory."""
    return {
        "accelerator_memory_reserved_avg": int(numpy.mean(memory.reserved)),
        "accelerator_memory_max": memory.peak,
        "accelerator_memory_reserved_99th": int(numpy.percentile(memory.reserved, 99)),
        "train_time": train_time,
        "file_size": file_size,
        "num_trainable_params": num_trainable_params,
        "num_total_params": num_total_params,
        "metrics": metrics,
        "status": "success",
    }


def meta_info(settings: Settings) -> dict[str, Any]:
    """Revisions of model and data, versions and machine."""
    packages = {f"{name}-{what}": None for name in PACKAGES for what in ("version", "commit-hash")}
    packages |= {f"{name}-version": _version(name) for name in PACKAGES}
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    return {
        "model_info": _revision(settings.model, "model"),
        "dataset_info": {
            "metamath": _revision(settings.data.train, "dataset"),
            "gsm8k": _revision(settings.data.judge, "dataset"),
        },
        "package_info": packages,
        "system_info": {
            "system": platform.system(),
            "release": platform.release(),
            "version": platform.version(),
            "machine": platform.machine(),
            "processor": platform.processor(),
            "accelerator": gpu,
        },
        "pytorch_info": torch.__config__.show(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _revision(source: str, kind: str) -> dict[str, str | None]:
    """Commit and date of a repository on the Hub; None for a folder, or where the Hub cannot be asked."""
    if Path(source).is_dir():
        return {"sha": None, "created_at": None}
    try:
        info = HfApi().repo_info(source, repo_type=kind)
    except Exception as error:  # the figures are worth more than this
        print(f"The revision of {source} is not known: {error}")
        return {"sha": None, "created_at": None}
    return {"sha": info.sha, "created_at": info.created_at.isoformat() if info.created_at else None}
