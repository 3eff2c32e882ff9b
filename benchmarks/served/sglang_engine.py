"""Serve checkpoints of `served.models` by SGLang's engine, and print a line of JSON about each.

cd benchmarks; python -m served.sglang_engine FOLDER --device cpu NAME …

Without a GPU SGLang 0.5.23 runs with `--device cpu`. It widens feed-forward networks there to multiples of 64, so that
checkpoints of other widths fail, plain or converted.
"""

import argparse
import json
import time
from pathlib import Path

CPU = {"attention_backend": "torch_native", "sampling_backend": "pytorch", "disable_cuda_graph": True}


def serve(folder: Path, *, device: str, ranks: int, port: int) -> dict:
    """Tokens of the engine beside those that transformers had in float32."""
    import sglang

    expected = json.loads((folder / "expected.json").read_text())
    length = len(expected["results"][0])
    start = time.perf_counter()
    engine = sglang.Engine(
        model_path=str(folder),
        device=device,
        dtype="float32",
        tp_size=ranks,
        port=port,
        context_length=256,
        max_running_requests=4,
        max_total_tokens=2048,
        mem_fraction_static=0.3,
        skip_tokenizer_init=True,
        disable_radix_cache=True,
        disable_overlap_schedule=True,
        grammar_backend="none",
        log_level="warning",
        **(CPU if device == "cpu" else {}),
    )
    ready = time.perf_counter() - start
    sampling = {"temperature": 0, "max_new_tokens": length, "ignore_eos": True}
    answers = engine.generate(input_ids=expected["prompts"], sampling_params=sampling)
    engine.shutdown()
    pairs = zip((answer["output_ids"] for answer in answers), expected["results"], strict=True)
    equal = [sum(a == b for a, b in zip(one, other, strict=True)) for one, other in pairs]
    return {"equal": "/".join(map(str, equal)), "of": length, "passed": min(equal) == length, "ready_seconds": ready}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--ranks", type=int, default=1)
    arguments = parser.parse_args()
    for number, name in enumerate(arguments.names):
        row = serve(arguments.folder / name, device=arguments.device, ranks=arguments.ranks, port=31000 + 40 * number)
        print("ROW " + json.dumps({"name": name} | row), flush=True)


if __name__ == "__main__":
    main()
