"""Measure speed and memory: one harness, one table of sizes, ratios to a named baseline of the same round."""
