"""What reads files of strangers, each with the check that what came out is right."""

import copy
import json
import os
import pickle
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import sympy as sp
import torch
import transformers
import yaml
from safetensors.torch import load_file
from strangers.corpus import make_plain
from transformers import AutoConfig, AutoModelForCausalLM

from kansformer import KANConfig, convert, is_converted, load_curves
from kansformer.cli.table_columns import Choices
from kansformer.cli.table_files import read_cells
from kansformer.cli.table_numbers import to_numbers
from kansformer.config import QUANT_METHOD
from kansformer.conversion import ConversionRecord
from kansformer.conversion.transformers_patches import TRIPWIRE
from kansformer.errors import KansformerError
from kansformer.hub import write_card
from kansformer.hub.model_folder import ModelFolder
from kansformer.kan import KAN, kan_from_formula
from kansformer.nn.curves import CURVE_PARAMETERS, curved_modules
from kansformer.safe_io import read_json
from kansformer.training.data.load import table_rows
from kansformer.training.recipe_file import dump_recipe, read_recipe
from kansformer.training.resume import find_checkpoint, has_run

LONGEST_SENTENCE = 1500
PLAIN = make_plain()
PLAIN_STATE = {name: tensor.clone() for name, tensor in PLAIN.state_dict().items()}


class WrongError(Exception):
    """What came out is not what was in the file, or a refusal changed something."""


class OnlyConvertedError(WrongError):
    """transformers refused a converted model, and loads the plain one in the same files."""


def read_model(folder: Path, rng: random.Random) -> None:
    """A whole model in one file, through transformers."""
    model = _loaded(AutoModelForCausalLM, folder)
    file = load_file(folder / "model.safetensors")
    state = model.state_dict()
    places = {tensor.data_ptr() for name, tensor in state.items() if name in file and tensor.numel()}
    for name, tensor in state.items():
        _see(not tensor.is_meta, f"{name} is on the meta device")
        if name not in file:
            _see(tensor.data_ptr() in places, f"{name} was not loaded")
        elif tensor.data_ptr() not in {state[other].data_ptr() for other in state if other != name}:
            _see(_same(tensor, file[name].to(tensor.dtype)), f"{name} is not what the file says")
    _check_curves(model)


def read_family(folder: Path, rng: random.Random) -> None:
    """A model of another family in several files; transformers may rename or merge its plain weights on the way."""
    (class_name,) = (path.name.removeprefix("class-") for path in folder.glob("class-*"))
    model = _loaded(getattr(transformers, class_name), folder)
    stored = [(name, tensor) for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()]
    state = model.state_dict()
    for path, _ in curved_modules(model):
        for name in (*CURVE_PARAMETERS, "domain"):
            if (key := f"{path}.{name}") in state:
                same_name = [tensor for other, tensor in stored if other == key]
                tensors = same_name or [tensor for other, tensor in stored if other.endswith(f".{name}")]
                right = any(_same(state[key], tensor.to(state[key].dtype)) for tensor in tensors)
                _see(right, f"{key} is not what the files say")
    for name, tensor in state.items():
        _see(not tensor.is_meta, f"{name} is on the meta device")
    _check_curves(model)


def _loaded(auto: Any, folder: Path) -> Any:
    try:
        return auto.from_pretrained(folder)
    except KansformerError:
        raise
    except Exception as error:
        if TRIPWIRE not in str(error) and _has_readable_config(folder) and _loads_as_plain(auto, folder):
            raise OnlyConvertedError(f"{type(error).__name__}: {error}") from error
        raise


def read_curves(folder: Path, rng: random.Random) -> None:
    """Curves for a plain model, which a refusal leaves as it was."""
    model = copy.deepcopy(PLAIN)
    try:
        load_curves(model, folder, check_weights=rng.random() < 0.7)
    except Exception:
        state = model.state_dict()
        _see(list(state) == list(PLAIN_STATE), "the refused model has other weights")
        _see(all(_same(state[name], own) for name, own in PLAIN_STATE.items()), "the refused model has other values")
        _see(not hasattr(model.config, "quantization_config"), "the refused model counts as converted")
        raise
    state = model.state_dict()
    for name, tensor in load_file(folder / "curves.safetensors").items():
        own = state[name if name in state else f"model.{name}"]
        _see(_same(own, tensor.to(own.dtype)), f"{name} is not what the file says")
        _see(own.dtype == tensor.dtype, f"{name} has another dtype")
    _check_curves(model)
    with torch.no_grad():
        model(torch.arange(6)[None])


def read_found(folder: Path, rng: random.Random) -> None:
    """Curves in one file for a plain model, which a refusal leaves as it was."""
    model = copy.deepcopy(PLAIN)
    try:
        convert(model, KANConfig(curves=folder / "found.safetensors", trainable=rng.random() < 0.5), verify=False)
    except Exception:
        state = model.state_dict()
        _see(all(_same(state[name], own) for name, own in PLAIN_STATE.items()), "the refused model has other values")
        _see(len(state) == len(PLAIN_STATE) and not is_converted(model), "the refused model counts as converted")
        raise
    _check_curves(model)


def read_network(folder: Path, rng: random.Random) -> None:
    """A stand-alone network."""
    model = KAN.load(folder)
    (file,) = (json.loads((folder / "kan.json").read_text(encoding="utf-8"))["tensors"],)
    tensors, state = load_file(folder / file), model.state_dict()
    _see(set(tensors) == set(state), "other tensors")
    for name, tensor in tensors.items():
        _see(tensor.dtype == state[name].dtype and _same(tensor, state[name]), f"{name} is not what the file says")
    with torch.no_grad():
        model(torch.zeros(3, model.layers[0].in_features, dtype=model.layers[0].weight.dtype))


def read_card(folder: Path, rng: random.Random) -> None:
    """The facts of a folder, and a card written from them; a refusal writes nothing."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    try:
        write_card(folder, origin=str(folder / "origin"))
    except Exception:
        _see({p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before, "the refused folder was changed")
        raise
    written = {p.name for p in folder.rglob("*") if p.is_file() and p.read_bytes() != before.get(p)}
    _see(written <= {"README.md", "kansformer.json"}, f"{written} were written")
    ModelFolder.read(folder)
    text = (folder / "README.md").read_text(encoding="utf-8")
    if "README.md" in written:
        _see(isinstance(yaml.safe_load(text.split("---\n")[1]), dict), "the card's header is no YAML")


def read_a_recipe(folder: Path, rng: random.Random) -> None:
    """A recipe, which is the same when it is written and read again."""
    recipe = read_recipe(folder / "recipe.yaml")
    again = folder / "again.yaml"
    again.write_text(dump_recipe(recipe), encoding="utf-8")
    one, other = repr(recipe), repr(read_recipe(again))
    at = next((n for n, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), 0)
    _see(one == other, f"a recipe became another one: {one[at - 30 : at + 50]}, {other[at - 30 : at + 50]}")


def resume(folder: Path, rng: random.Random) -> None:
    """The checkpoint of a run that goes on."""
    name = next(folder.glob("begun-*")).name.removeprefix("begun-")
    recipe = read_recipe(name)
    found = find_checkpoint(recipe, folder) if has_run(recipe, folder) else None
    _see(found is None or Path(found).parent == folder, f"{found} is elsewhere")


def read_record(folder: Path, rng: random.Random) -> None:
    """The settings of a checkpoint, which are the same when they are written and read again."""
    record = ConversionRecord.from_dict(read_json(folder / "record.json"))
    _see(ConversionRecord.from_dict(json.loads(json.dumps(record.to_dict()))) == record, "the record is another one")


def read_tables(folder: Path, rng: random.Random) -> None:
    """A table for `kansformer fit`, and rows of texts with labels."""
    choices = Choices(drop_missing=rng.random() < 0.3, impute=False)
    numbers = to_numbers(read_cells(folder / "table.csv"), "z", choices)
    for column in (numbers.target, *(numbers.inputs[name] for name in numbers.inputs)):
        _see(bool(np.isfinite(column.to_numpy(dtype=float)).all()), "a table has numbers that are not finite")
    for _, row in table_rows((str(folder),)):
        _see(isinstance(row, dict), "a row is no table")


def compile_a_formula(folder: Path, rng: random.Random) -> None:
    """A network from an expression of any kind."""
    formula = rng.choice(TEXTS) if rng.random() < 0.2 else _expression(rng, 3)
    model = kan_from_formula(formula)
    numbers = list(model.state_dict().values())
    _see(all(bool(tensor.isfinite().all()) for tensor in numbers), f"{formula} gives numbers that are not finite")


READERS: dict[str, Callable[[Path, random.Random], None]] = {
    "model": read_model,
    "family": read_family,
    "curves": read_curves,
    "found": read_found,
    "kan": read_network,
    "card": read_card,
    "kan-card": read_card,
    "recipe": read_a_recipe,
    "resume": resume,
    "record": read_record,
    "table": read_tables,
    "formula": compile_a_formula,
}


def write_beside(folder: Path, rng: random.Random) -> None:
    """What no reader may do, as all below: a file outside."""
    (folder.parent.parent / "out.txt").write_text("x", encoding="utf-8")


def start_a_program(folder: Path, rng: random.Random) -> None:
    subprocess.run(["true"], check=False)


def unpickle(folder: Path, rng: random.Random) -> None:
    pickle.loads(pickle.dumps(Path("x")))  # noqa: S301 - to see that it is seen


def take_memory(folder: Path, rng: random.Random) -> None:
    b"x" * (200 << 20)


def ask_for_all_memory(folder: Path, rng: random.Random) -> None:
    torch.empty(2**36)


def raise_what_is_not_ours(folder: Path, rng: random.Random) -> None:
    raise KeyError("x")


def say_nothing(folder: Path, rng: random.Random) -> None:
    raise KansformerError("")


def hang(folder: Path, rng: random.Random) -> None:
    time.sleep(600)


def die(folder: Path, rng: random.Random) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


MISDEEDS = (
    write_beside, start_a_program, unpickle, take_memory, ask_for_all_memory, raise_what_is_not_ours, say_nothing, hang,
    die,
)  # fmt: skip
"""By which a test sees that the judge is awake."""

TEXTS: list[Any] = [
    "__import__('os').system('true')",
    "x + 1",
    "",
    b"x",
    5,
    None,
    [],
    [None],
    {},
    sp.true,
    sp.S.EmptySet,
]
X, Y = sp.symbols("x y")
LEAVES = [X, Y, sp.Integer(2), sp.Rational(1, 3), sp.pi, sp.E, sp.I, sp.oo, sp.zoo, sp.nan, sp.Integer(10) ** 400,
          sp.Float("1e400"), sp.Float("1e-400"), sp.Symbol("__class__"), sp.Dummy("x"), sp.Wild("w")]  # fmt: skip
FUNCTIONS = [sp.sin, sp.cos, sp.tan, sp.exp, sp.log, sp.sqrt, sp.Abs, sp.sign, sp.erf, sp.gamma,
             sp.Function("system"), sp.Function("eval"), sp.conjugate, sp.re, sp.floor,
             lambda a: sp.Integral(a, X), lambda a: sp.Derivative(a, X),
             lambda a: sp.Piecewise((a, X > 0), (1, True)), lambda a: sp.Max(a, 1), lambda a: sp.Subs(a, X, Y),
             lambda a: a ** sp.Rational(7, 3), lambda a: 1 / a, lambda a: a ** (60 if a.free_symbols else 6),
             lambda a: a ** (10**9 if a in (X, Y) else 9)]  # fmt: skip


def _expression(rng: random.Random, depth: int) -> Any:
    if not depth or rng.random() < 0.2:
        return rng.choice(LEAVES[:4]) if rng.random() < 0.7 else rng.choice(LEAVES)
    kind = rng.randrange(3)
    if kind == 0:
        inner = _expression(rng, depth - 1)
        try:
            return rng.choice(FUNCTIONS)(inner)
        except (TypeError, ValueError):  # SymPy makes no such expression
            return inner
    one, other = _expression(rng, depth - 1), _expression(rng, depth - 1)
    return one + other if kind == 1 else one * other


def _has_readable_config(folder: Path) -> bool:
    """Whether transformers reads config.json, which it does before it asks for any loader."""
    try:
        AutoConfig.from_pretrained(folder)
    except Exception:
        return False
    return True


def _loads_as_plain(auto: Any, folder: Path) -> bool:
    """Whether transformers alone loads what these files say without their curves."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if config.pop("quantization_config")["quant_method"] != QUANT_METHOD:
            return False
        config["fusion_config"].pop(TRIPWIRE, None)
    except Exception:
        return False
    whole = (folder / "config.json").read_bytes()
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    try:
        auto.from_pretrained(folder)
    except Exception:
        return False
    finally:
        (folder / "config.json").write_bytes(whole)
    return True


def _check_curves(model: Any) -> None:
    for path, module in curved_modules(model):
        lower, upper = module.domain.double().unbind(-1)
        _see(bool((lower < upper).all()), f"{path} has an interval without a width")
        for name in (*CURVE_PARAMETERS, "domain"):
            tensor = getattr(module, name, None)
            if tensor is not None:
                _see(not tensor.is_meta and tensor.is_floating_point(), f"{path}.{name} is {tensor.dtype}")
                _see(bool(tensor.isfinite().all()), f"{path}.{name} is not finite")


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return torch.equal(
        one.detach().contiguous().view(-1).view(torch.uint8), other.contiguous().view(-1).view(torch.uint8)
    )


def _see(holds: bool, what: str) -> None:
    if not holds:
        raise WrongError(what)
