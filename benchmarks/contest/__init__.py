"""The contest of feed-forward networks behind `quality.py`: who takes part, the runs, statistics and report."""
