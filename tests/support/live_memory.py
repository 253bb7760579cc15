"""What torch holds: by looking at every live tensor, and at every allocation while something is done."""

import gc
from collections.abc import Callable, Iterable

import torch
from torch.profiler import ProfilerActivity, profile


def live_storages(but: Iterable[torch.UntypedStorage] = ()) -> list[torch.UntypedStorage]:
    """The memory that tensors of Python's refer to, each once, besides `but`; who has the list keeps it all alive."""
    gc.collect()
    known = {storage.data_ptr() for storage in but}
    storages = {}
    for tensor in gc.get_objects():
        if type(tensor) in (torch.Tensor, torch.nn.Parameter):
            for held in (tensor, tensor.grad if tensor.is_leaf else None):
                if held is not None and held.untyped_storage().nbytes():
                    storages[held.untyped_storage().data_ptr()] = held.untyped_storage()
    return [storage for address, storage in storages.items() if address not in known]


def allocated_by(work: Callable[[], object]) -> tuple[int, int]:
    """Bytes that torch's CPU allocator has given out beyond what it had before: at most at once, and in the end.

    What `work` returns is alive in the end.
    """
    gc.collect()  # nothing from before shall be given back meanwhile
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        result = work()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    del result
    return most, now


def saved_for_backward(work: Callable[[], object], but: Iterable[torch.Tensor]) -> int:
    """Bytes that autograd keeps of what `work` computes, storages counted once, without those of `but`."""
    known = {tensor.untyped_storage().data_ptr() for tensor in but}
    kept: dict[int, int] = {}
    holding = []  # a storage that is freed might be given to another tensor

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        holding.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        work()
    return sum(kept.values())
