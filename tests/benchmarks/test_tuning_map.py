"""The rate of each way of tuning is the best of those tried, and none at the end of its range; others do not count."""

import math
from argparse import Namespace

import pytest
import tuning_map
from tuning_map import FIRST_SEED, TUNING_SEED, WAYS, Job, Row

OPTIONS = Namespace(model="embedded", seeds=2, lengths=[20, 1000], ways=list(WAYS))


def measured(job, best):
    """A row whose loss has its minimum at the lowest rate that is tried at first times 2^best."""
    first = WAYS[job.way].rates or WAYS["lora"].rates
    loss = 3.0 + abs(math.log2(job.lr / first[0]) - best)
    return Row(job, trained=1, seconds=1.0, before=4.0, after=loss, other_before=4.0, other_after=4.5)


@pytest.mark.parametrize("best", [-2, 0, 5, 9])
@pytest.mark.parametrize("begun", [False, True], ids=["at once", "resumed"])
def test_rates_are_tried_until_the_best_lies_between_others(best, begun):
    rows = []
    for job in tuning_map._jobs(OPTIONS, rows):
        rows.append(measured(job, best))
        if begun and len(rows) > 6:
            break
    for job in tuning_map._jobs(OPTIONS, rows):
        if job not in {row.job for row in rows}:
            rows.append(measured(job, best))
    for way in WAYS:
        for blocks in OPTIONS.lengths:
            mine = [row.job for row in rows if row.job.way == way]
            tried = [job.lr for job in mine if (job.blocks, job.seed) == (tuning_map.tuned_at(blocks), TUNING_SEED)]
            chosen = tuning_map.best_rate(rows, "embedded", way, blocks)
            assert len(tried) >= 3 and min(tried) < chosen < max(tried) and len(set(tried)) == len(tried)
            assert {job.lr for job in mine if (job.blocks, job.seed >= FIRST_SEED) == (blocks, True)} == {chosen}
    assert len([row for row in rows if row.job.seed >= FIRST_SEED]) == 2 * 2 * 2 * len(WAYS)


def test_rows_of_other_rates_are_not_in_the_table():
    rows = []
    for job in tuning_map._jobs(OPTIONS, rows):
        rows.append(measured(job, 2) if job.seed < FIRST_SEED else Row(job, 1, 1.0, 4.0, 3.0, 4.0, 4.5))
    lines = tuning_map.table(rows).splitlines()[2:]
    assert len(lines) == 4 and all(line.count("-1.000 ± 0.000; +0.500") == len(WAYS) for line in lines)
    again = [row for row in rows if row.job.seed >= FIRST_SEED]
    worse = [Row(Job(**{**vars(row.job), "lr": 9.0}), 1, 1.0, 4.0, 9.0, 4.0, 9.0) for row in again]
    assert tuning_map.table([*rows, *worse]) == tuning_map.table(rows)


def test_both_ways_together_meet_at_the_best_rates_of_each():
    rows = []
    for job in tuning_map._jobs(OPTIONS, rows):
        rows.append(measured(job, 3 if job.way == "curves" else 1))
    job = next(row.job for row in rows if (row.job.way, row.job.seed) == ("both", FIRST_SEED))
    curves, lora = (tuning_map.best_rate(rows, "embedded", way, 20) for way in ("curves", "lora"))
    assert job.lr == lora and job.lr * tuning_map.curve_multiplier(rows, job) == pytest.approx(30 * curves)
    assert tuning_map.curve_multiplier(rows, rows[0].job) is None


def test_both_ways_together_need_each():
    alone = Namespace(**{**vars(OPTIONS), "ways": ["both"], "lengths": [10]})
    with pytest.raises(SystemExit, match="The rates of 'both' follow from those of curves and lora"):
        next(tuning_map._jobs(alone, []))
    assert tuning_map.tuned_at(10) == 20
