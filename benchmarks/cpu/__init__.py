"""The engine and the services on a CPU beside other engines: `python -m benchmarks.cpu`."""
