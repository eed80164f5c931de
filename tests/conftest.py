"""What holds for every test."""

import os

import torch

# Read when a kernel is declared, so it must be set before any of them is imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
    import interpreter_repairs

    interpreter_repairs.repair()
