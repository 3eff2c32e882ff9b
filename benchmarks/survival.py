"""Training runs killed by SIGKILL at random moments, resumed, and compared with a run that nobody killed.

    python benchmarks/survival.py                   # all parts: 66 kills, and 8 changes of the number of processes
    python benchmarks/survival.py --part "2 nodes" --kills 20 --seed 1

Every run is killed several times, at a random time or inside something: half a file of a checkpoint written, before or
after its renaming, half of the grids moved or refined, old checkpoints about to go, the final model half in its place.
In two processes one of them dies, or both. On nodes, each a `torchrun` launcher with two processes, a process or a
launcher dies, and a launcher that ended is started again by the same command. A run is lost if it cannot be resumed, or
if a single bit of the final weights differs. The last parts kill a run and resume it in another number of processes; it
is lost if a loss differs by more than 1e-5. Writes `benchmarks/results/survival.csv`, where the rows of a part replace
those of an earlier run. On two cores that do other things as well it takes five minutes, and the nodes one minute more
for every kill.
"""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import torch
from dataclass_csv import replace_lines
from tqdm import tqdm

import kansformer  # noqa: F401 - the loader

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from nodes import train_on_nodes  # noqa: E402
from tiny_run import killed_run, loss_rows, weights_of, write_recipe_file  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "survival.csv"
COLUMNS = ["part", "killed at", "kills", "resumed to the same bits", "lost"]
GRIDS = ("curves.refine_grid_at={13: 10}", "curves.update_grid_at=[1, 9, 17]", "training.max_steps=24")
SHARDED = ("shard=true", "curves.update_grid_at=[]", "training.max_steps=24")
PER_RUN = 6
# Every moment and how often a run comes to it at least before the next checkpoint.
SAVING = {"write weights": 2, "write random state": 2, "before rename": 2, "after rename": 2, "remove old": 2}
WHOLE = {**SAVING, "write optimizer": 2, "move grid": 4, "refine grid": 4}
PARTS_OF_OPTIMIZER = {**SAVING, "write part of optimizer": 2}
BY_ANY_PROCESS = {"write random state", "write part of optimizer", "move grid", "refine grid"}  # the rest by one
ENDS = ("write model", "move file")


@dataclass(frozen=True)
class Part:
    """A kind of run that is killed.

    Args:
        name: for the table.
        processes: in all.
        kills: in all, unless the command says otherwise.
        changes: of the recipe.
        moments: at which it can be killed.
        nodes: launchers among which the processes are divided; 0 starts the processes without one.
        seconds: latest random time; after the first step, on nodes after the imports.
    """

    name: str
    processes: int
    kills: int
    changes: tuple[str, ...]
    moments: dict[str, int]
    nodes: int = 0
    seconds: float = 1.0

    def run(self, recipe: Path, output: Path, kills: list[str]) -> list[str]:
        """Train to the end; the kills that struck."""
        if self.nodes:
            each = self.processes // self.nodes
            return train_on_nodes(
                recipe, output, *self.changes, nodes=self.nodes, processes=each, deaths=kills, timeout=1200
            )
        starts = killed_run(recipe, output, *self.changes, processes=self.processes, kills=kills)
        return [start["kill"] for start in starts if -9 in start["codes"]]

    def draw_kills(self, generator: random.Random) -> list[str]:
        """Kills of one run: about half at a random time, the others inside something; the last one at its end."""
        kills = [self._draw_kill(generator) for _ in range(PER_RUN - 1)] + [f"{generator.choice(ENDS)}:1@0"]
        return [f"{generator.choice(('worker', 'node'))} {kill}" for kill in kills] if self.nodes else kills

    def _draw_kill(self, generator: random.Random) -> str:
        whom = generator.choice([*range(self.processes), *([] if self.nodes else ["all"])])
        if generator.random() < 0.5:
            return f"after:{generator.uniform(0, self.seconds):.3f}@{whom}"
        moment = generator.choice(list(self.moments))
        return f"{moment}:{generator.randint(1, self.moments[moment])}@{whom if moment in BY_ANY_PROCESS else 0}"


PARTS = (
    Part("2 processes", 2, 30, GRIDS, WHOLE),
    Part("1 process", 1, 12, GRIDS, WHOLE),
    Part("2 nodes of 2 processes", 4, 12, GRIDS, WHOLE, nodes=2, seconds=4.0),
    Part("2 nodes of 2 processes, sharded", 4, 12, SHARDED, PARTS_OF_OPTIMIZER, nodes=2, seconds=4.0),
)
CHANGES_OF_NUMBER = {  # the processes of every start in turn
    **{f"processes {a} -> {b}": ((a, b), ("training.max_steps=24",)) for a, b in ((2, 1), (1, 2), (4, 2), (2, 4))},
    "processes 2 -> 1 -> 2, sharded": ((2, 1, 2), SHARDED),
    **{f"processes {a} -> {b}, sharded": ((a, b), SHARDED) for a, b in ((4, 2), (2, 4))},
}
EQUAL_ROWS = ("rows_per_step=16", "model.config.attention_dropout=0.0")
MAX_DIFFERENCE = 1e-5


def kind_of(kill: str) -> str:
    """Without number and process, such as "node: write weights"."""
    *who, place = kill.split(" ", 1) if kill.startswith(("worker ", "node ")) else [kill]
    moment = place.partition(":")[0]
    return ": ".join([*who, "a random time" if moment == "after" else moment])


def measure_kills(part: Part, kills: int, seed: int) -> list[list[object]]:
    """A row for each kind of kill: those that struck, survived, and whose run was lost."""
    struck, lost = Counter(), Counter()
    generator = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recipe = write_recipe_file(folder)
        killed_run(recipe, folder / "through", *part.changes, processes=part.processes)
        expected = weights_of(folder / "through")
        bar = tqdm(total=kills, desc=f"kills, {part.name}")
        for run in count():
            if struck.total() >= kills:  # some kills come too late: their run had ended
                break
            output, moments = folder / f"run-{run}", part.draw_kills(generator)
            try:
                kinds = list(map(kind_of, part.run(recipe, output, moments)))
            except TimeoutError:
                kinds = list(map(kind_of, moments))
            struck.update(kinds)
            bar.update(len(kinds))
            result = weights_of(output) if (output / "training.json").exists() else {}
            if list(result) != list(expected) or not all(torch.equal(result[key], expected[key]) for key in expected):
                lost.update(kinds)
                print(f"LOST: {moments}\n{output.with_suffix('.log').read_text()[-2000:]}")
    return [[part.name, kind, struck[kind], struck[kind] - lost[kind], lost[kind]] for kind in sorted(struck)]


def measure_change(name: str) -> list[list[object]]:
    """A row for a run that is killed before every change of its number of processes; lost if its losses change."""
    numbers, changes = CHANGES_OF_NUMBER[name]
    kills = ["after rename:2@0"] * (len(numbers) - 1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        recipe = write_recipe_file(folder)
        killed_run(recipe, folder / "through", *changes, *EQUAL_ROWS, processes=numbers[0])
        killed_run(recipe, folder / "run", *changes, *EQUAL_ROWS, processes=numbers, kills=kills)
        through, run = loss_rows(folder / "through"), loss_rows(folder / "run")
        finished = (folder / "run" / "training.json").exists() and len(through) == len(run)
        largest = max(abs(one - other) for one, other in zip(through, run, strict=True)) if finished else float("inf")
    print(f"{name}: largest difference of {len(through)} losses {largest:.1e}")
    lost = len(kills) if largest > MAX_DIFFERENCE else 0
    return [[name, "after rename", len(kills), len(kills) - lost, lost]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", default="", help="only the parts whose name begins so; all by default")
    parser.add_argument("--kills", type=int, help="of each part")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    parts = {part.name: part for part in PARTS}
    for name in [*parts, *CHANGES_OF_NUMBER]:
        if not name.startswith(arguments.part):
            continue
        begin = time.perf_counter()
        if name in parts:
            rows = measure_kills(parts[name], arguments.kills or parts[name].kills, arguments.seed)
        else:
            rows = measure_change(name)
        replace_lines(RESULTS, COLUMNS, rows, ["part"])
        for _, kind, struck, _, lost in rows:
            print(f"{name}  {kind:32} {struck:4} killed {lost:4} lost")
        total = [sum(row[column] for row in rows) for column in (2, 4)]
        print(f"{name}  {total[0]} kills, {total[1]} lost, {time.perf_counter() - begin:.0f} s")
        print(f"tried {total[0]}, lost {total[1]}")


if __name__ == "__main__":
    main()
