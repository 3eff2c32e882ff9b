"""Everything that trains, fits or reads a model, small, and the digest of every number that comes out.

    python tests/extremes/jobs.py FOLDER 1 2 2

runs all of it in rounds, here three, on these numbers of threads, and prints the digests of each as JSON.
"""

import hashlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path

import torch
import transformers
from torch import Tensor

from kansformer import KANConfig, convert, optimizer_groups, summarize
from kansformer.kan import KAN, create_dataset, find_formula
from kansformer.nn.curves import curved_modules
from kansformer.nn.optim import curve_parameters
from kansformer.symbolic import fit_symbolic
from kansformer.training.recipe import Recipe
from kansformer.training.run import train
from kansformer.training.trainer import KANTrainer

# Wide enough for torch to share its sums among threads.
LLAMA = dict(
    vocab_size=96, hidden_size=64, intermediate_size=192, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=4, max_position_embeddings=64, bos_token_id=None, eos_token_id=None, pad_token_id=None,
)  # fmt: skip
BLOCKS = (torch.arange(16 * 64).reshape(16, 64) ** 2) % 89
CONFIGS = {
    "channel curves": KANConfig(slots=("input", "act")),
    "full edges": KANConfig(slots=("up",), edges="full"),
    "rational": KANConfig(basis="rational", order=5),
}


def digest(tensors: Iterable[Tensor]) -> str:
    return hashlib.sha256(b"".join(t.detach().contiguous().numpy().tobytes() for t in tensors)).hexdigest()[:16]


def model_with(config: KANConfig) -> torch.nn.Module:
    torch.manual_seed(0)
    return convert(transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA)).eval(), config)


def steps_of_adam(config: KANConfig) -> str:
    model = model_with(config)
    optimizer = torch.optim.AdamW(optimizer_groups(model, lr=1e-3))
    for rows in BLOCKS.split(8):
        optimizer.zero_grad()
        model(input_ids=rows, labels=rows).loss.backward()
        optimizer.step()
    return digest(model.state_dict().values())


def curves_alone(folder: Path) -> str:
    model = model_with(CONFIGS["channel curves"]).requires_grad_(False)
    for _, parameter in curve_parameters(model):
        parameter.requires_grad_(True)
    arguments = transformers.TrainingArguments(
        str(folder), max_steps=4, per_device_train_batch_size=8, learning_rate=1e-3, use_cpu=True, report_to="none",
        disable_tqdm=True, save_strategy="no", dataloader_pin_memory=False, logging_strategy="no",
    )  # fmt: skip
    trainer = KANTrainer(model, arguments, train_dataset=[{"input_ids": row, "labels": row} for row in BLOCKS])
    trainer.train()
    return digest(model.state_dict().values())


def recipe(folder: Path) -> str:
    text = folder.parent / "text.txt"
    text.write_text("".join(f"{i} green bottles hanging on the wall, and {i * i} more.\n" for i in range(150)))
    settings = dict(max_steps=4, per_device_train_batch_size=8, learning_rate=3e-3, logging_steps=1, use_cpu=True)
    data = {"files": str(text), "tokenizer": "characters", "block": 32}
    sizes = {name: value for name, value in LLAMA.items() if name not in ("vocab_size", "pad_token_id")}
    values = {"task": "causal-lm", "model": {"config": {"model_type": "llama", **sizes}}, "kan": {"groups": 4}}
    result = train(Recipe.from_dict({**values, "data": data, "training": settings}), folder)
    written = (folder / "model.safetensors").read_bytes()
    return hashlib.sha256(written + repr(result.losses).encode()).hexdigest()[:16]


def network(optimizer: str) -> str:
    data = create_dataset(lambda x: x[:, [0]].sin() * x[:, [1]], num_inputs=2, num_train=300, num_test=50)
    model = KAN([2, 4, 1], grid_size=8)
    history = model.fit(data, optimizer=optimizer, steps=6, sparsity=1e-3, progress=False)
    return digest([torch.tensor(history.train_error), *model.state_dict().values()])


def formula() -> str:
    data = create_dataset(lambda x: x[:, [0]] ** 2 + x[:, [1]], num_inputs=2, num_train=200, num_test=50)
    found = find_formula(data, progress=False)
    return str(found.formulas) + digest(found.model.state_dict().values())


def names() -> str:
    y = torch.randn(300, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).cumsum(dim=1)
    fits = fit_symbolic(torch.linspace(-1, 1, 64, dtype=torch.float64).expand(300, -1), y)
    return digest([fits.params, fits.r2])


def audit() -> str:
    model = model_with(CONFIGS["channel curves"])
    generator = torch.Generator().manual_seed(1)
    for _, module in curved_modules(model):
        torch.nn.init.normal_(module.coefficients, std=0.1, generator=generator)
    summary = summarize(model, {"input_ids": BLOCKS[:2], "labels": BLOCKS[:2]})
    figures = {name: value for name, value in json.loads(summary.to_json()).items() if name != "seconds"}
    table = summary.to_pandas().select_dtypes("number").to_numpy("float64")
    return digest([torch.tensor(table)]) + hashlib.sha256(json.dumps(figures).encode()).hexdigest()[:16]


def all_jobs(folder: Path) -> dict[str, str]:
    """The digest of every job; `folder` is to be written."""
    found = {name: steps_of_adam(config) for name, config in CONFIGS.items()}
    found |= {"curves alone": curves_alone(folder.with_name(f"{folder.name}-curves")), "recipe": recipe(folder)}
    found |= {f"fit by {optimizer}": network(optimizer) for optimizer in ("lm", "lbfgs", "adam")}
    return found | {"find_formula": formula(), "fit_symbolic": names(), "summarize": audit()}


if __name__ == "__main__":
    folder, runs = Path(sys.argv[1]), []
    folder.mkdir(exist_ok=True)
    for n, threads in enumerate(map(int, sys.argv[2:])):
        torch.set_num_threads(threads)
        runs.append(all_jobs(folder / f"{n}"))
    print(json.dumps(runs))
