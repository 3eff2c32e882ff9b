"""Make the files of this folder, each of which has to load for ever. What exists already is never written again.

    python tests/golden/make.py            # all that are missing
    python tests/golden/make.py networks   # those whose names begin with it

Each folder says in `made_by.json` which command, seed and versions made it, and holds in `expected.safetensors` what it
gave for a fixed input on the reference backend.
"""

import argparse
import dataclasses
import json
import platform
import sys
from collections.abc import Callable
from pathlib import Path

import safetensors
import torch
import transformers
from safetensors.torch import save_file

import kansformer
from kansformer import KANConfig, convert, freeze_curves, save_curves, set_backend
from kansformer.conversion import replace_feed_forwards
from kansformer.files import atomic_folder
from kansformer.interp import Transcoder
from kansformer.kan import KAN, Edge
from kansformer.kan.edges import cut_edges
from kansformer.symbolic import ALL_SYMBOLS
from kansformer.training.recipe import Recipe
from kansformer.training.recipe_file import write_recipe

FOLDER = Path(__file__).resolve().parent
SEED = 0
SIZES = dict(vocab_size=20, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
SIZES |= dict(num_key_value_heads=1, max_position_embeddings=16)
SPREAD = dict(initializer_range=0.5)  # the usual 0.02 would leave the blocks without a say in the logits
TOKENS = torch.arange(10).reshape(2, 5)
CURVES = ("coefficients", "denominator", "mix")

BASES = ("bspline", "chebyshev", "rbf", "fourier", "rational")
EDGES = {
    "channel": dict(slots=("input", "act"), domain=(-1.0, 1.0)),
    "group": dict(slots=("input", "gate", "act"), groups=4, order=2, extrapolation="clamp"),
    "low_rank": dict(slots=("up", "act", "down"), groups=4, rank=2, domain=(-2.0, 3.0)),
    "full": dict(slots=("input", "up", "down"), groups=4, grid_size=3, extrapolation="zero", layers="last-third"),
}
NETWORKS = {basis: dict(width=[2, [2, 1], 1], basis=basis, grid_size=4, order=2) for basis in BASES}
NETWORKS["float32"] = dict(width=[3, 2, [1, 1]], dtype=torch.float32, base="identity")
RECIPES = {
    "pretrained": {
        "task": "causal-lm",
        "model": {"path": "embedded", "dtype": "bfloat16"},
        "data": {"files": ["a.txt", "b"], "eval_files": ["c.txt"], "tokenizer": "model", "block": 64},
        "kan": {"basis": "chebyshev", "edges": "low_rank", "rank": 2, "slots": ["up", "down"], "hidden": 96},
        "curves": {"lr_multiplier": 3.0, "warm_up": 2, "domain": "data", "quantile": 0.98, "update_grid_at": [3, 5]},
        "trainable": ["curves", "lora"],
        "lora": {"r": 4, "target_modules": ["q_proj"]},
        "distill": {"logits": 0.25, "temperature": 2.0, "ffn_steps": 3, "ffn_lr": 2e-3},
        "shard": True,
        "early_stop": 2,
        "training": {"max_steps": 4, "learning_rate": 1e-3, "lr_scheduler_type": "cosine"},
        "seed": 7,
    },
    "scratch": {
        "task": "sequence-classification",
        "model": {"config": {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1}},
        "data": {"dataset": "a-name", "dataset_config": "b", "train_split": "c", "eval_split": "d", "text_column": "e"},
        "kan": {"slots": ["act"], "layers": [0]},
        "curves": {
            "refine_grid_at": {2: 10},
            "spread": 0.1,
            "sparsity": {"weight": 1e-3, "begin": 1, "ramp": 2},
            "smoothness": {"weight": 1e-4},
        },
    },
}


def make_llama(dtype: torch.dtype = torch.float32, layers: int = 1) -> torch.nn.Module:
    torch.manual_seed(SEED)
    sizes = SIZES | dict(num_hidden_layers=layers)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **SPREAD, dtype=dtype)).to(dtype).eval()


def make_gpt2() -> torch.nn.Module:
    torch.manual_seed(SEED)
    config = transformers.GPT2Config(
        vocab_size=20, n_embd=8, n_layer=1, n_head=2, n_positions=16, bos_token_id=0, eos_token_id=0, **SPREAD
    )
    return transformers.GPT2LMHeadModel(config).eval()


def make_mixtral() -> torch.nn.Module:
    torch.manual_seed(SEED)
    return transformers.MixtralForCausalLM(transformers.MixtralConfig(**SIZES, **SPREAD, num_local_experts=2)).eval()


@torch.no_grad()
def bend(model: torch.nn.Module) -> torch.nn.Module:
    """Curves with something in them, on domains that are not those of the config."""
    generator = torch.Generator().manual_seed(SEED)
    for name, parameter in model.named_parameters():
        if name.endswith(CURVES):
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    for name, buffer in model.named_buffers():
        if name.endswith(".domain"):
            buffer.mul_(0.75)
    return model


@torch.no_grad()
def logits_of(model: torch.nn.Module) -> torch.Tensor:
    return model(input_ids=TOKENS).logits


def save_expected(folder: Path, **tensors: torch.Tensor) -> None:
    save_file(tensors, folder / "expected.safetensors")


def checkpoints() -> dict[str, Callable[[], torch.nn.Module]]:
    """Models by the name of their folder."""
    made = {
        f"{edges}-{basis}": lambda edges=edges, basis=basis: convert(
            make_llama(), KANConfig(basis=basis, edges=edges, **EDGES[edges])
        )
        for edges in EDGES
        for basis in BASES
    }
    for edges, basis in (("channel", "rational"), ("full", "chebyshev")):
        config = KANConfig(basis=basis, edges=edges, slots=EDGES[edges]["slots"], groups=4)
        made[f"narrow-{edges}"] = lambda config=config: replace_feed_forwards(make_llama(), config, hidden=6)
    made["bfloat16"] = lambda: convert(make_llama(torch.bfloat16), KANConfig())
    made["gpt2"] = lambda: convert(
        make_gpt2(), KANConfig(edges="group", slots=("input", "up", "act", "down"), groups=4)
    )
    made["mixtral"] = lambda: convert(make_mixtral(), KANConfig())
    made["digest"] = made["bfloat16"]  # and with a domain in float32, from the same version on
    made["modules"] = lambda: convert(
        make_llama(), KANConfig(slots=("up", "act"), target_modules=["up_proj", "act_fn"])
    )
    made["fixed"] = make_fixed
    return made


def make_fixed() -> torch.nn.Module:
    """Two layers that share curves which are not trained."""
    model = convert(make_llama(layers=2), KANConfig(slots=("up", "act"), edges="group", groups=4, share="model"))
    freeze_curves(model)
    return model


def make_checkpoint(name: str, folder: Path) -> None:
    model = bend(checkpoints()[name]())
    model.save_pretrained(folder)
    save_expected(folder, tokens=TOKENS, logits=logits_of(model))


def make_curves(_: str, folder: Path) -> None:
    """Curves and the head beside them, and the plain model that they belong to."""
    make_llama().save_pretrained(folder / "plain")
    model = bend(convert(make_llama(), KANConfig(**EDGES["channel"])))
    with torch.no_grad():
        model.lm_head.weight.mul_(1.5)
    save_curves(model, folder / "curves", also=("lm_head",))
    save_expected(folder, tokens=TOKENS, logits=logits_of(model))


def make_found(_: str, folder: Path) -> None:
    """Curves in one file, and what a plain model gives with them."""
    freeze_curves(
        bend(convert(make_llama(), KANConfig(**EDGES["group"]))), folder / "found.safetensors", source="a seed"
    )
    model = convert(make_llama(), KANConfig(curves=folder / "found.safetensors"))
    save_expected(folder, tokens=TOKENS, logits=logits_of(model))


def make_network(name: str, folder: Path) -> None:
    """A network with product nodes, an edge that is gone and one that is a formula; or with every formula there is."""
    if name == "formulas":
        symbols = [symbol.name for symbol in ALL_SYMBOLS]
        model = KAN([len(symbols), 1], seed=SEED)
    else:
        symbols = ["sin"]
        model = KAN(seed=SEED, **NETWORKS[name])
        _draw_bases(model)
        gone_IO = torch.zeros_like(model.alive[0])
        gone_IO[0, 1] = True
        cut_edges(model, 0, gone_IO)
    for index, symbol in enumerate(symbols):
        model.fix_symbol(Edge(0, index, 0), symbol)
    model.save(folder)
    generator = torch.Generator().manual_seed(SEED)
    inputs = torch.rand(6, sum(model.width[0]), generator=generator).to(model.layers[0].weight.dtype)
    inputs = inputs * (2 if name == "formulas" else 3) - 1  # formulas hold where their edges did; curves go on outside
    save_expected(folder, inputs=inputs, outputs=model.predict(inputs))


@torch.no_grad()
def make_transcoder(_: str, folder: Path) -> None:
    """One with curves, TopK and a skip."""
    model = Transcoder(6, latents=12, out_features=4, k=3, edges="group", groups=4, order=2, skip=True)
    generator = torch.Generator().manual_seed(SEED)
    for parameter in model.parameters():
        parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    model.save(folder / "transcoder")
    inputs = torch.randn(5, 6, generator=generator)
    save_expected(folder, inputs=inputs, outputs=Transcoder.load(folder / "transcoder")(inputs))


@torch.no_grad()
def _draw_bases(model: KAN) -> None:
    generator = torch.Generator().manual_seed(SEED)
    for layer in model.layers:
        for tensor in (layer.weight, layer.bias):
            tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator))


def make_recipe(name: str, folder: Path) -> None:
    """The file, and every field that it means, with those that it leaves to their defaults."""
    recipe = Recipe.from_dict(RECIPES[name])
    write_recipe(recipe, folder / "recipe.yaml")
    fields = json.dumps(dataclasses.asdict(recipe), indent=1)
    (folder / "expected.json").write_text(fields + "\n", encoding="utf-8")


KINDS: dict[str, tuple[Callable[[str, Path], None], list[str]]] = {
    "checkpoints": (make_checkpoint, [*checkpoints()]),
    "curves": (make_curves, ["channel"]),
    "found": (make_found, ["group"]),
    "networks": (make_network, [*NETWORKS, "formulas"]),
    "recipes": (make_recipe, [*RECIPES]),
    "transcoders": (make_transcoder, ["curves"]),
}


def this_machine() -> dict[str, str]:
    """What decides the last bits: torch, and the processor, by which its libraries choose their instructions."""
    found = {}
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else ():
        name, _, value = line.partition(":")
        if name.strip() in ("vendor_id", "cpu family", "model"):
            found.setdefault(name.strip(), value.strip())
    processor = " ".join(found.values()) or platform.machine()
    return {"torch": torch.__version__, "processor": f"{processor} {torch.backends.cpu.get_cpu_capability()}"}


def make(path: str) -> None:
    """One folder, with what made it."""
    kind, name = path.split("/")
    folder = FOLDER / path
    if folder.exists():
        raise FileExistsError(f"{path} is there, and old files are never made again.")
    with atomic_folder(folder) as partial:
        KINDS[kind][0](name, partial)
        versions = {p.__name__: p.__version__ for p in (kansformer, transformers, safetensors)}
        made_by = {
            "command": f"python tests/golden/make.py {path}",
            "seed": SEED,
            **this_machine(),
            **versions,
            "python": platform.python_version(),
        }
        (partial / "made_by.json").write_text(json.dumps(made_by, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("begins", nargs="?", default="", help="only folders whose path begins with it")
    wanted = [f"{kind}/{name}" for kind, (_, names) in KINDS.items() for name in names]
    wanted = [path for path in wanted if path.startswith(parser.parse_args().begins)]
    missing = [path for path in wanted if not (FOLDER / path).exists()]
    if not missing:
        sys.exit(f"Nothing was written: all {len(wanted)} of these folders exist, and old files are never made again.")
    set_backend("reference")
    torch.set_num_threads(1)  # another number adds up in another order
    transformers.utils.logging.disable_progress_bar()
    for path in missing:
        make(path)
    print(f"Made {len(missing)} folders; {len(wanted) - len(missing)} existed and stayed as they were.")


if __name__ == "__main__":
    main()
