"""What benchmarks share: cases and plans, checkpoints of random weights, clocks, ceilings."""
