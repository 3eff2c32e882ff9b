"""Eight threads at once, each with a model of its own, get the bits that one thread gets.

`python -m pytest tests/load/test_threads.py --thorough` runs 20 rounds of every backend.
"""

import copy
import hashlib
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import transformers
from quick_compiler import calls, write_quick_compiler
from tiny_models import SMALL

from kansformer import KANConfig, convert, revert, set_backend
from kansformer.conversion import find_curve_slots
from kansformer.interp import edge_scores
from kansformer.nn.curves import curved_modules
from kansformer.ops.native import build

THREADS = 8
IDS = torch.arange(2, 34).view(2, 16)
TINY = SMALL | dict(vocab_size=50)
TOKENS = dict(bos_token_id=0, eos_token_id=0, pad_token_id=0)
JOBS = [
    (transformers.LlamaConfig(**TINY, **TOKENS), KANConfig(slots=("input", "act"))),
    (
        transformers.GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, **TOKENS),
        KANConfig(edges="full", slots=("up",)),
    ),
    (
        transformers.MixtralConfig(**TINY, num_key_value_heads=2, num_local_experts=2),
        KANConfig(basis="rational", order=5),
    ),
    (transformers.LlamaConfig(**TINY, **TOKENS), KANConfig(edges="low_rank", rank=2, slots=("gate", "down"))),
]
loading = threading.Lock()
"""transformers 5.24 changes its own classes while it loads a model; with eight threads a plain GPT-2 loses weights."""


def digest(tensors):
    return hashlib.sha256(b"".join(t.detach().contiguous().numpy().tobytes() for t in tensors)).hexdigest()


def work(model, config, folder):
    """Everything that a user does with a model; what came out of it, step by step."""
    seen = {"plain": digest([model(input_ids=IDS).logits])}
    convert(model, config)
    seen["straight"] = digest([model(input_ids=IDS).logits])
    generator = torch.Generator().manual_seed(1)
    for _, module in curved_modules(model):
        torch.nn.init.normal_(module.coefficients, std=0.1, generator=generator)
    output = model(input_ids=IDS, labels=IDS)
    output.loss.backward()
    seen["bent"] = digest([output.logits])
    seen["gradients"] = digest(p.grad for p in model.parameters() if p.grad is not None)
    scores = edge_scores(model, {"input_ids": IDS, "labels": IDS})
    seen["scores"] = digest(scores[place.site, place.name].attribution for place in find_curve_slots(model))
    model.save_pretrained(folder)
    with loading:
        loaded = transformers.AutoModelForCausalLM.from_pretrained(folder)
    seen["loaded"] = digest([loaded(input_ids=IDS).logits])
    seen["reverted"] = digest([revert(model)(input_ids=IDS).logits])
    seen["state"] = digest(model.state_dict().values())
    return seen


@pytest.fixture(params=["native", "cpu", "reference"])
def backend(request):
    set_backend(request.param)
    sys.setswitchinterval(1e-5)  # threads take turns as often as they can
    yield request.param
    sys.setswitchinterval(0.005)
    set_backend(None)


def test_eight_threads_get_the_bits_of_one(backend, thorough, tmp_path):
    torch.manual_seed(0)
    models = [transformers.AutoModelForCausalLM.from_config(config).eval() for config, _ in JOBS]
    random = torch.get_rng_state()
    alone = [
        work(copy.deepcopy(m), c, tmp_path / f"{i}") for i, (m, (_, c)) in enumerate(zip(models, JOBS, strict=True))
    ]
    assert all(
        seen["plain"] == seen["straight"] == seen["reverted"] != seen["bent"] == seen["loaded"] for seen in alone
    )
    start = threading.Barrier(THREADS)

    def run(thread, round_number, model):
        start.wait()
        return work(model, JOBS[thread % len(JOBS)][1], tmp_path / f"{round_number}-{thread}")

    rounds_run = 20 if thorough else 1
    for round_number in range(rounds_run):
        copies = [copy.deepcopy(models[thread % len(JOBS)]) for thread in range(THREADS)]
        with ThreadPoolExecutor(THREADS) as pool:
            rounds = [round_number] * THREADS
            for thread, seen in enumerate(pool.map(run, range(THREADS), rounds, copies)):
                assert seen == alone[thread % len(JOBS)]
    assert torch.equal(torch.get_rng_state(), random)
    print(f"\ntried {rounds_run * THREADS}, lost 0")


FIRST_USE = """
import hashlib, os, threading
from concurrent.futures import ThreadPoolExecutor
import torch
from kansformer import LearnedActivation, set_backend

is_child = any(os.fork() == 0 for _ in range(2))  # three processes in all
set_backend("native")
layers = [LearnedActivation(8) for _ in range(8)]
start = threading.Barrier(8)

def use(layer):
    torch.nn.init.ones_(layer.coefficients)
    start.wait()
    return hashlib.sha256(layer(torch.linspace(-1, 1, 64).view(8, 8)).detach().numpy().tobytes()).hexdigest()

with ThreadPoolExecutor(8) as pool:
    print(*set(pool.map(use, layers)))
if not is_child:
    assert [os.wait()[1] for _ in range(2)] == [0, 0]
"""


def test_the_kernels_are_built_once_by_processes_and_threads_that_start_together(tmp_path):
    compiler = write_quick_compiler(tmp_path, seconds=1.0)
    environment = os.environ | {"CXX": str(compiler), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", FIRST_USE], env=environment, text=True, stdout=subprocess.PIPE, timeout=120, check=True
    )
    results = done.stdout.splitlines()
    assert len(results) == 3 and len(set(results)) == 1 and len(results[0]) == 64
    assert calls(compiler) == ["compiled"] * len(build.SOURCES) + ["linked"]
    assert sorted(path.suffix for path in (tmp_path / "cache" / "kansformer").iterdir()) == [".lock", ".so"]
