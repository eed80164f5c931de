"""What benchmarks share: checkpoints of random weights, shapes, clocks, turns, tables."""
