"""Serve checkpoints by vLLM's engine in this process, and print a line of JSON about each.

cd benchmarks; python -m served.engine FOLDER --mode eager --ranks 1 --impl auto NAME …
"""

import argparse
import gc
import json
import os
import time
from pathlib import Path

ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # several ranks on one NUMA node
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # several models, one after the other, in one process
}
MAX_DIFFERENCE = 1e-4
"""Between two components of normalised vectors, in float32."""


def serve(folder: Path, *, mode: str, ranks: int, stages: int, impl: str, dtype: str) -> dict:
    """Results of the engine beside those that transformers had in float32; others are not judged."""
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    expected = json.loads((folder / "expected.json").read_text())
    generates = expected["kind"] == "tokens"
    adapter = LoRARequest("adapter", 1, str(folder / "adapter")) if (folder / "adapter").exists() else None
    start = time.perf_counter()
    llm = LLM(
        model=str(folder),
        runner="generate" if generates else "pooling",
        dtype=dtype,
        max_model_len=256,
        max_num_seqs=4,
        enforce_eager=mode == "eager",
        tensor_parallel_size=ranks,
        pipeline_parallel_size=stages,
        model_impl=impl,
        enable_lora=adapter is not None,
        disable_log_stats=True,
    )
    ready = time.perf_counter() - start
    prompts = [{"prompt_token_ids": prompt} for prompt in expected["prompts"]]
    row = {"class": "general" if llm.llm_engine.vllm_config.model_config.model_impl == "transformers" else "vLLM's own"}
    if generates:
        length = len(expected["results"][0])
        sampling = SamplingParams(temperature=0, max_tokens=length, ignore_eos=True)
        answers = llm.generate(prompts, sampling, lora_request=adapter, use_tqdm=False)
        outputs = [list(answer.outputs[0].token_ids) for answer in answers]
        pairs = list(zip(outputs, expected["results"], strict=True))
        equal = [sum(a == b for a, b in zip(one, other, strict=True)) for one, other in pairs]
        row |= {
            "equal": "/".join(map(str, equal)),
            "of": length,
            "passed": min(equal) == length if dtype == "float32" else None,
        }
    else:
        outputs = [output.outputs.embedding for output in llm.embed(prompts, use_tqdm=False)]
        pairs = list(zip(outputs, expected["results"], strict=True))
        difference = max(abs(a - b) for one, other in pairs for a, b in zip(one, other, strict=True))
        row |= {"equal": f"{difference:.1e}", "of": f"< {MAX_DIFFERENCE:g}", "passed": difference < MAX_DIFFERENCE}
    del llm
    gc.collect()
    return row | {"ready_seconds": round(ready, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--mode", choices=("eager", "compiled"), default="eager")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--stages", type=int, default=1)
    parser.add_argument("--impl", choices=("auto", "transformers"), default="auto")
    parser.add_argument("--dtype", default="float32")
    arguments = parser.parse_args()
    os.environ.update({name: os.environ.get(name, value) for name, value in ENVIRONMENT.items()})
    for name in arguments.names:
        try:
            row = serve(
                arguments.folder / name,
                mode=arguments.mode,
                ranks=arguments.ranks,
                stages=arguments.stages,
                impl=arguments.impl,
                dtype=arguments.dtype,
            )
        except Exception as error:
            row = {"passed": False, "message": f"{type(error).__name__}: {error}"}
        print("ROW " + json.dumps({"name": name} | row), flush=True)


if __name__ == "__main__":
    main()
