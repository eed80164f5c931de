"""One file per skill; each turns a `random.Random` into a `Sample`."""
