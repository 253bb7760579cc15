"""A backend's name, a device and a precision -> the backend, or a reason why it cannot be had there."""

from collections.abc import Callable

import torch

from foreword.errors import ConfigError
from pipeline.attention.flex import FlexBackend
from pipeline.attention.interface import AttentionBackend
from pipeline.attention.sdpa import SdpaBackend
from pipeline.attention.varlen import VarlenBackend

BACKENDS: dict[str, Callable[[], AttentionBackend]] = {  # the fastest first, as far as they are known
    "varlen": VarlenBackend,
    "flex": FlexBackend,
    "sdpa": SdpaBackend,
}
COMPUTE_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}  # of queries, keys and values
OLDEST_CAPABILITY = {"varlen": (8, 0), "flex": (7, 0)}  # of the kernels: flash attention's, Triton's


def select_backend(name: str, device: torch.device, dtype: torch.dtype) -> AttentionBackend:
    """The backend called `name`; `auto` takes the first of varlen, flex and sdpa that is available.

    Args:
        name: `auto`, `varlen`, `flex` or `sdpa`.
        device: where it shall run.
        dtype: of queries, keys and values.

    Raises:
        ConfigError: no such backend, or one that is not available there, with the reason and what is available.
    """
    reasons = {known: why_not(known, device, dtype) for known in BACKENDS}
    available = [known for known, reason in reasons.items() if reason is None]
    if name == "auto":
        name = available[0]
    if name not in available:
        reason = reasons.get(name, "there is no such backend")
        raise ConfigError(
            f"attention backend {name!r}: {reason}",
            where="attention",
            remedy=f"available here: auto, {', '.join(available)}",
        )
    return BACKENDS[name]()


def why_not(name: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why the backend `name` cannot be had for `dtype` on `device`; None where it can."""
    if name == "sdpa":
        return None
    if device.type != "cuda":
        without = "FlexAttention has no backward pass" if name == "flex" else "flash attention does not run"
        return f"{without} on a {device.type.upper()}; it needs a CUDA device"
    if name == "varlen" and dtype not in (torch.bfloat16, torch.float16):
        return f"flash attention computes in bf16 and fp16, not in {str(dtype).removeprefix('torch.')}"
    capability, oldest = torch.cuda.get_device_capability(device), OLDEST_CAPABILITY[name]
    if capability < oldest:
        return f"it needs a GPU of compute capability {_dotted(oldest)}, and {device} has {_dotted(capability)}"
    return None


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
