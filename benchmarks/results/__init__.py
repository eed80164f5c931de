"""What benchmarks found: one record, one file, one report."""
