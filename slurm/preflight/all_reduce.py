"""All processes of a job together: whether they find each other, sum right, and how fast.

They join as training does, over the backend that training uses. The figure is the bus bandwidth as NVIDIA's nccl-tests
define it, 2 (n - 1) / n x bytes / seconds: what each process sends and receives, whatever the number of processes.
"""

import time
from datetime import timedelta

import torch
import torch.distributed as dist

from foreword.errors import ForewordError
from pipeline.distributed.meeting import join
from pipeline.distributed.placement import Placement

SIZE_BYTES = {"cuda": 64 * 2**20, "cpu": 4 * 2**20}
ROUNDS = 5


def all_reduce(placement: Placement, patience: timedelta) -> tuple[bool, str]:
    """Whether something is wrong, and what was found; every process must call this."""
    device = torch.device("cuda", placement.local_rank) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        join(placement, device.type, patience=patience, timeout=patience)
        try:
            return _sum_and_time(placement, device)
        finally:
            dist.destroy_process_group()
    except ForewordError as error:
        return True, str(error)
    except RuntimeError as error:  # of a collective
        return True, str(error).splitlines()[0]


def bus_bandwidth(size_bytes: int, seconds: float, processes: int) -> float:
    """Bytes a second."""
    return 2 * (processes - 1) / processes * size_bytes / seconds


def _sum_and_time(placement: Placement, device: torch.device) -> tuple[bool, str]:
    world_size = placement.world_size
    numel = SIZE_BYTES[device.type] // 4
    values = torch.full((numel,), float(placement.rank + 1), device=device)
    dist.all_reduce(values)
    expected = world_size * (world_size + 1) / 2  # exact in fp32 up to 5,792 processes
    if not bool((values == expected).all()):
        wrong = values[values != expected]
        return True, f"{len(wrong)} of {numel} sums are wrong: {wrong[0].item()} instead of {expected}"
    zeros = torch.zeros_like(values)
    dist.all_reduce(zeros)
    _synchronize(device)
    started = time.perf_counter()
    for _ in range(ROUNDS):
        dist.all_reduce(zeros)
    _synchronize(device)
    seconds = (time.perf_counter() - started) / ROUNDS
    rate = bus_bandwidth(SIZE_BYTES[device.type], seconds, world_size) / 1e9
    backend = "NCCL" if device.type == "cuda" else "gloo"
    size = SIZE_BYTES[device.type] // 2**20
    return False, f"{world_size} processes sum right; {rate:.2f} GB/s bus bandwidth over {backend} with {size} MiB"


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
