"""The first run of the kernels on a GPU: sections that stand alone, checked numbers before times, rows as they come."""
