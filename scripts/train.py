"""Train a model by a recipe, in one process or in many.

    accelerate launch scripts/train.py --config scripts/recipes/tiny-cpu.yaml
    accelerate launch --config_file scripts/accelerate/two-cpu.yaml scripts/train.py --config tiny-cpu
    python scripts/train.py --config scripts/recipes/tiny-cpu.yaml training.max_steps=20 --output somewhere

Several nodes, each with this command and a folder that all share; one that died is started again by the same command:

    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
    torchrun --nnodes 2 --nproc-per-node 2 --max-restarts 3 --rdzv-backend c10d --rdzv-endpoint HOST:29400 \\
        --rdzv-id run scripts/train.py --config tiny-cpu --output SHARED/run --resume

Needs `pip install kansformer`. It is `kansformer train`; any field of the recipe can be changed by `field=value`.
"""

import sys

from kansformer.cli import app

if __name__ == "__main__":
    app(["train", *sys.argv[1:]], prog_name="kansformer")
