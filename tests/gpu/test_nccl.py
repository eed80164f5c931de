"""What ranks exchange goes over NCCL on GPUs, and a CUDA graph may hold it."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import FileStore

from engine_service.layers.parallel import TensorParallel

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_a_graph_replays_what_is_exchanged(tmp_path: Path) -> None:
    """With one rank, whose tensors come back as they are."""
    torch.cuda.set_device(0)
    store = FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("cpu:gloo,cuda:nccl", store=store, rank=0, world_size=1)
    try:
        parallel = TensorParallel(0, 1, dist.group.WORLD)
        own = torch.ones(4, 8, device="cuda", dtype=torch.bfloat16)
        parallel.all_gather(parallel.all_reduce(own))  # connects
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            gathered = parallel.all_gather(parallel.all_reduce(own) * 2)
        own.fill_(3)
        graph.replay()
        assert torch.equal(gathered, torch.full_like(gathered, 6)) and gathered.shape == (1, 4, 8)
        assert parallel.all_reduce_min(5) == 5
    finally:
        dist.destroy_process_group()
