"""A backend's name -> the backend, or a reason why it cannot be had."""

from foreword.errors import ConfigError
from pipeline.attention.interface import AttentionBackend
from pipeline.attention.sdpa import SdpaBackend

BACKENDS = {"sdpa": SdpaBackend}
NOT_IN_THIS_VERSION = {
    "varlen": "flash attention on packed tokens is not part of this version",
    "flex": "FlexAttention is not part of this version",
}


def select_backend(name: str) -> AttentionBackend:
    """The backend called `name`; `auto` takes the fastest that is available, which is `sdpa`.

    Raises:
        ConfigError: no such backend, or one that is not available, with the reason and what is available.
    """
    if name == "auto":
        name = "sdpa"
    if name in BACKENDS:
        return BACKENDS[name]()
    reason = NOT_IN_THIS_VERSION.get(name, "there is no such backend")
    available = ", ".join(BACKENDS)
    raise ConfigError(
        f"attention backend {name!r}: {reason}", where="attention", remedy=f"available: auto, {available}"
    )
