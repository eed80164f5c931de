"""A runner that launches steps on a GPU and reads their tokens later. `runner.build` uses `build`.

`device_state` is what the device knows of each sequence; `decode_graphs` and `mixed_graphs` are
steps as CUDA graphs.
"""
