"""The rate of each way of tuning is the best of those tried, and none at the end of its range; others do not count."""

from argparse import Namespace

import pytest
import tuning_map
from tuning_map import FIRST_SEED, TUNING_SEED, WAYS, Row

OPTIONS = Namespace(model="embedded", seeds=2, lengths=[20])


@pytest.mark.parametrize(("best", "tried"), [(2, 4), (3, 5), (5, 7)])
def test_higher_rates_are_tried_while_the_highest_is_the_best(best, tried):
    rows = []
    for job in tuning_map._jobs(OPTIONS, rows):
        rates = [*WAYS[job.way].rates, *(WAYS[job.way].rates[-1] * 2**k for k in range(1, 5))]
        loss = 3.0 + abs(rates.index(job.lr) - best)
        rows.append(Row(job, trained=1, seconds=1.0, before=4.0, after=loss, other_before=4.0, other_after=4.5))
    for way in WAYS:
        mine = [row.job for row in rows if row.job.way == way]
        assert len([job for job in mine if job.seed == TUNING_SEED]) == tried
        assert {job.lr for job in mine if job.seed >= FIRST_SEED} == {tuning_map.best_rate(rows, "embedded", way)}
    assert len([row for row in rows if row.job.seed >= FIRST_SEED]) == 2 * 2 * len(WAYS)
    (line, other) = tuning_map.table(rows).splitlines()[2:]
    assert line.count("-1.000 ± 0.000; +0.500") == len(WAYS) and "python" in line and "wikitext" in other
    again = [row for row in rows if row.job.seed >= FIRST_SEED]
    worse = [Row(tuning_map.Job(**{**vars(r.job), "lr": 9.0}), 1, 1.0, 4.0, 9.0, 4.0, 9.0) for r in again]
    assert tuning_map.table([*rows, *worse]) == tuning_map.table(rows)
