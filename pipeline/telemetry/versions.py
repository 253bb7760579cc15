"""The versions that a run's numbers depend on."""

import platform
from importlib.metadata import version

LIBRARIES = ("torch", "deepspeed", "megatron-core", "numpy", "safetensors")


def library_versions() -> dict[str, str]:
    """Library -> installed version, with Python and Foreword."""
    from foreword import __version__

    return {"foreword": __version__, "python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}
