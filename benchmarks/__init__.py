"""Runnable measurements: `python -m benchmarks NAME`.

`cpu` and `gpu` compare engines, `services` loads the services, `micro` measures one part; `peers`
are the engines behind one Protocol, each in a worker process; `results` is the record, its file and
the report; `harness` is what they share.
"""
