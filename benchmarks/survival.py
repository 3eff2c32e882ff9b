"""Training runs killed by SIGKILL at random moments, resumed, and compared with a run that nobody killed.

    python benchmarks/survival.py            # 30 kills of a run in two processes, 12 of one in one process
    python benchmarks/survival.py --kills 100 --seed 1

Every run is killed several times, at a random time after its first step or inside something: half a file of a
checkpoint written, before or after its renaming, half of the grids moved or refined, old checkpoints about to go, the
final model half in its place. In two processes one of them dies, or both. A run is lost if it cannot be resumed, or if
a single bit of the final weights differs. Prints a table and writes it to `benchmarks/results/survival.csv`. Takes five
minutes on two cores that do other things as well.
"""

import argparse
import csv
import random
import sys
import tempfile
import time
from collections import Counter
from itertools import count
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import AutoModelForCausalLM

import kansformer  # noqa: F401 - the loader

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from tiny_run import killed_run, write_recipe_file  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "survival.csv"
CHANGES = ("curves.refine_grid_at={13: 10}", "curves.update_grid_at=[1, 9, 17]", "training.max_steps=24")
PER_RUN = 6
# Every moment and how often a run comes to it at least before the next checkpoint.
SAVING = {"write weights": 2, "write optimizer": 2, "write random state": 2, "before rename": 2, "after rename": 2}
MOMENTS = {**SAVING, "remove old": 2, "move grid": 4, "refine grid": 4}
ENDS = ("write model", "move file")
SECONDS = 1.0


def draw_kills(generator: random.Random, number: int, processes: int) -> list[str]:
    """So many kills of one run: about half at a random time, the others inside something; the last one at its end."""
    kills = []
    for _ in range(number - 1):
        whom = generator.choice([*range(processes), "all"])
        if generator.random() < 0.5:
            kills.append(f"after:{generator.uniform(0, SECONDS):.3f}@{whom}")
            continue
        moment = generator.choice(list(MOMENTS))
        whom = whom if moment in ("write random state", "move grid", "refine grid") else 0  # the rest one process does
        kills.append(f"{moment}:{generator.randint(1, MOMENTS[moment])}@{whom}")
    return [*kills, f"{generator.choice(ENDS)}:1@0"]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def measure(processes: int, kills: int, seed: int) -> tuple[Counter, Counter]:
    """Kills of each kind that struck, and those whose run was lost."""
    struck, lost = Counter(), Counter()
    generator = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recipe = write_recipe_file(folder)
        killed_run(recipe, folder / "through", *CHANGES, processes=processes)
        expected = weights(folder / "through")
        bar = tqdm(total=kills, desc=f"kills, {processes} process(es)")
        for run in count():
            if struck.total() >= kills:  # some kills come too late: their run had ended
                break
            moments = draw_kills(generator, PER_RUN, processes)
            starts = killed_run(recipe, folder / f"run-{run}", *CHANGES, processes=processes, kills=moments)
            kinds = [start["kill"].partition(":")[0] for start in starts if -9 in start["codes"]]
            struck.update(kinds)
            bar.update(len(kinds))
            finished = (folder / f"run-{run}" / "training.json").exists()
            result = weights(folder / f"run-{run}") if finished else {}
            if list(result) != list(expected) or not all(torch.equal(result[key], expected[key]) for key in expected):
                lost.update(kinds)
                print(f"LOST: {moments}\n{starts}\n{(folder / f'run-{run}.log').read_text()[-2000:]}")
    return struck, lost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30, help="in two processes; in one process two fifths of it")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rows = []
    for processes, kills in ((2, arguments.kills), (1, arguments.kills * 2 // 5)):
        begin = time.perf_counter()
        struck, lost = measure(processes, kills, arguments.seed)
        seconds = time.perf_counter() - begin
        for kind in sorted(struck):
            name = "a random time" if kind == "after" else kind
            rows.append([processes, name, struck[kind], struck[kind] - lost[kind], lost[kind]])
            print(f"{processes} process(es)  {name:20} {struck[kind]:4} killed {lost[kind]:4} lost")
        print(f"{processes} process(es)  {sum(struck.values())} kills, {sum(lost.values())} lost, {seconds:.0f} s")
    print(f"tried {sum(row[2] for row in rows)}, lost {sum(row[4] for row in rows)}")
    with RESULTS.open("w", newline="") as file:
        csv.writer(file).writerows([["processes", "killed at", "kills", "resumed to the same bits", "lost"], *rows])


if __name__ == "__main__":
    main()
