"""Train a model by a recipe, in one process or in many.

    accelerate launch scripts/train.py --config scripts/recipes/tiny-cpu.yaml
    accelerate launch --config_file scripts/accelerate/two-cpu.yaml scripts/train.py --config tiny-cpu
    python scripts/train.py --config scripts/recipes/tiny-cpu.yaml training.max_steps=20 --output somewhere

Needs `pip install kansformer`. It is `kansformer train`; any field of the recipe can be changed by `field=value`.
"""

import sys

from kansformer.cli import app

if __name__ == "__main__":
    app(["train", *sys.argv[1:]], prog_name="kansformer")
