"""Peak memory of what reads streams, at a length and at a multiple of it; and of `convert`.

    python benchmarks/bounds.py
    python benchmarks/bounds.py --only stream evaluate

Every case runs in a process of its own, on text and models that are made here. Prints a table: operation, length of the
stream, peak resident memory over what stood there before, at both lengths, and what one byte of the longer one costs.
About ten minutes on two cores; Linux only; writes 1.3 GB into a temporary folder.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import transformers
from speed.memory import GIVE_BACK
from speed.peak_process import resident

from kansformer import KANConfig, convert
from kansformer.embedded import embedded_model_path
from kansformer.training.recipe import Recipe

MEGABYTE = 2**20
LINE = "The feed-forward network number {} of a transformer has curves, and they are bent a little.\n"


def tiny_model() -> torch.nn.Module:
    """A small language model with bent curves."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2
    )
    model = convert(transformers.AutoModelForCausalLM.from_config(config), KANConfig())
    torch.nn.init.normal_(model.model.layers[0].mlp.act_fn.coefficients, std=0.1)
    return model


def stream(count: int) -> Iterator[dict[str, torch.Tensor]]:
    """So many batches, made one by one."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        ids = torch.randint(50, (4, 64), generator=generator)
        yield {"input_ids": ids, "labels": ids}


def text_file(folder: Path, size: int) -> Path:
    """A text file of about `size` bytes."""
    file, number = folder / "train.txt", 0
    with file.open("w", encoding="utf-8") as out:
        while out.tell() < size:
            out.write("".join(LINE.format(number + i) for i in range(10_000 if size > MEGABYTE else 100)))
            number += 10_000
    return file


def record(length: int, folder: Path) -> Iterator[None]:
    """`record_edges` around `length` batches."""
    from kansformer.interp import record_edges

    model = tiny_model()
    yield
    with record_edges(model), torch.no_grad():
        for batch in stream(length):
            model(**batch)


def summarize(length: int, folder: Path) -> Iterator[None]:
    """The audit of a generator of `length` batches."""
    from kansformer.interp import summarize

    model = tiny_model()
    summarize(model, stream(2))  # what comes to stay: libraries, compiled functions, pools
    yield
    summarize(model, stream(length))


def edges(length: int, folder: Path) -> Iterator[None]:
    """The audit of `length` edges, with little room for what is scored at once."""
    from kansformer.interp import audit
    from kansformer.symbolic import LIBRARY

    audit.BUDGET = 2**21  # else the sums of all these edges fit it
    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=64, intermediate_size=length // 64, num_hidden_layers=1, num_attention_heads=2
    )
    model = convert(
        transformers.AutoModelForCausalLM.from_config(config),
        KANConfig(slots=("up",), edges="low_rank", rank=1, grid_size=2),
    )
    torch.nn.init.normal_(model.model.layers[0].mlp.up_proj.coefficients, std=0.1)
    library = LIBRARY.subset(["x", "sin"])
    audit.summarize(tiny_model(), stream(2), library=library)
    yield
    audit.summarize(model, stream(2), library=library)


def evaluate(length: int, folder: Path) -> Iterator[None]:
    """`kansformer evaluate --text FILE --max-tokens 2048`."""
    from typer.testing import CliRunner

    from kansformer.cli.app import app

    file = text_file(folder, length)
    yield
    model = str(embedded_model_path())
    result = CliRunner().invoke(app, ["evaluate", model, "--text", str(file), "--max-tokens", "2048", "--block", "128"])
    assert result.exit_code == 0, result.output


def recipe_for(data: dict) -> Recipe:
    return Recipe.from_dict(
        {
            "task": "causal-lm",
            "model": {"path": "embedded"},
            "kan": {},
            "data": {"block": 64, "max_eval_tokens": 2048, **data},
            "training": {"max_steps": 5, "per_device_train_batch_size": 4, "use_cpu": True},
        }
    )


def streaming(length: int, folder: Path) -> Iterator[None]:
    """`train` for five steps with `data.streaming`, on a folder with one text file."""
    from kansformer.training.run import train

    text_file(folder / "data", length)
    recipe = recipe_for({"dataset": str(folder / "data"), "streaming": True})
    yield
    train(recipe, folder / "out")


def files(length: int, folder: Path) -> Iterator[None]:
    """`train` for five steps on a text file that is not streamed: all of it is tokenised first."""
    import datasets

    from kansformer.training.run import train

    file = text_file(folder / "data", length)
    datasets.config.HF_DATASETS_CACHE = folder  # an empty cache for blocks
    yield
    train(recipe_for({"files": [str(file)]}), folder / "out")


def converting(length: int, folder: Path) -> Iterator[None]:
    """`convert` of a model with random weights, `length` layers of 29 MB."""
    config = transformers.LlamaConfig(
        vocab_size=1000, hidden_size=768, intermediate_size=2048, num_hidden_layers=length, num_attention_heads=12
    )
    model = transformers.AutoModelForCausalLM.from_config(config)
    yield
    convert(model, KANConfig(edges="low_rank", rank=16, slots=("up", "down")))


# Operation, the shorter length, how many times longer the other is, and the unit.
OPERATIONS = {
    "record": (record, 20, 100, "batches"),
    "summarize": (summarize, 20, 100, "batches"),
    "edges": (edges, 2**16, 8, "edges"),
    "evaluate": (evaluate, MEGABYTE, 100, "bytes"),
    "stream": (streaming, 12 * MEGABYTE, 100, "bytes"),
    "files": (files, 4 * MEGABYTE, 10, "bytes"),
    "convert": (converting, 2, 10, "layers"),
}
BOUNDED = ("record", "summarize", "edges", "evaluate", "stream")
"""Must not take more memory for a longer stream; files and converted models hold what they hold."""
MAX_GROWTH = 10 * MEGABYTE


def measure(name: str, length: int) -> dict:
    """Resident memory before, at the peak and after, in this process."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "data").mkdir()
        os.environ["HF_HOME"] = folder
        steps = OPERATIONS[name][0](length, Path(folder))
        next(steps)
        before, _ = resident()
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        begin = time.perf_counter()
        next(steps, None)
        after, peak = resident()
        return {"before": before, "peak": peak, "after": after, "seconds": time.perf_counter() - begin}


def measured(name: str, length: int) -> dict:
    """The same, in a process of its own."""
    command = [sys.executable, __file__, "--measure", name, str(length)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | GIVE_BACK)
    if done.returncode:
        raise SystemExit(f"{name} at {length} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=tuple(OPERATIONS), default=tuple(OPERATIONS), metavar="OPERATION")
    parser.add_argument("--measure", nargs=2, metavar=("OPERATION", "LENGTH"), help="measure here, as JSON")
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure[0], int(arguments.measure[1]))))
        return
    print(
        "| operation | stream | peak over before, MB | the longer one's | bytes a unit more | peak / after | seconds |"
    )
    print("|---|---|---|---|---|---|---|")
    lost = 0
    for name in arguments.only:
        _, short, times, unit = OPERATIONS[name]
        one, other = measured(name, short), measured(name, short * times)
        peaks = [row["peak"] - row["before"] for row in (one, other)]
        growth = (peaks[1] - peaks[0]) / (short * times - short)
        lost += name in BOUNDED and peaks[1] - peaks[0] > MAX_GROWTH
        cells = [name, f"{short:,} and {short * times:,} {unit}", *(f"{peak / MEGABYTE:.1f}" for peak in peaks)]
        cells += [f"{growth:,.2f}", f"{other['peak'] / other['after']:.2f}", f"{one['seconds'] + other['seconds']:.0f}"]
        print(f"| {' | '.join(cells)} |", flush=True)
    print(f"tried {sum(name in BOUNDED for name in arguments.only)}, lost {lost}")
    sys.exit(bool(lost))


if __name__ == "__main__":
    main()
