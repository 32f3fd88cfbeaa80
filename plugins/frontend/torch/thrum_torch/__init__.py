"""PyTorch's torch.distributed over Thrum: importing this package registers the backend "thrum".

    import torch.distributed as dist
    import thrum_torch
    dist.init_process_group("thrum")

Under torchrun as any backend; under mpirun, Slurm and other launchers that Thrum knows (docs/launching.md) too, without a
MASTER_ADDR. See docs/torch.md.
"""

import atexit
import sys

try:
    import torch
except ImportError as error:
    raise ImportError(
        f"thrum_torch needs PyTorch, which {sys.executable} cannot import ({error}); on Debian: "
        "apt-get install python3-torch, and use /usr/bin/python3"
    ) from error

import torch.distributed as dist

if not dist.is_available():
    raise ImportError("thrum_torch: this PyTorch was built without torch.distributed")

try:
    from . import _build
except ImportError as error:
    raise ImportError(
        "thrum_torch: the extension has not been built: configure Thrum where PyTorch's headers are "
        "(its summary says what is missing), then make install"
    ) from error


def _minor(version):
    return ".".join(version.split("+")[0].split(".")[:2])


if _minor(torch.__version__) != _minor(_build.TORCH_VERSION):
    raise ImportError(
        f"thrum_torch was built for PyTorch {_build.TORCH_VERSION}, and this is {torch.__version__}; "
        f"configure Thrum with PYTHON={sys.executable} and build it again"
    )
if sys.version_info[:2] != _build.PYTHON_VERSION:
    raise ImportError(
        "thrum_torch was built for Python {}.{}, and this is {}.{}".format(
            *_build.PYTHON_VERSION, *sys.version_info[:2]
        )
    )

try:
    from . import _C
except ImportError as error:
    if "libthrum.so" in str(error):
        raise ImportError(
            f"thrum_torch does not find Thrum's library ({error}): add the directory that has "
            "libthrum.so to LD_LIBRARY_PATH"
        ) from error
    raise ImportError(
        f"thrum_torch: the extension, built for PyTorch {_build.TORCH_VERSION}, cannot be loaded: {error}"
    ) from error

from . import _rendezvous

__version__ = _C.library_version()


def _create(options, pg_options=None):
    if pg_options is not None:
        raise ValueError("the backend thrum has no pg_options")
    return _C.create(
        options.store,
        options.group_rank,
        options.group_size,
        options.timeout,
        options.group_id,
        list(options.global_ranks_in_group),
    )


def _register():
    arguments = {"extended_api": True}
    if int(torch.__version__.split(".")[0]) >= 2:
        arguments["devices"] = ["cpu"]
    dist.Backend.register_backend("thrum", _create, **arguments)


def _at_exit():
    # what is in flight may still be waited for by others, but not after an error
    _C.shut_down(0.0 if getattr(sys, "last_value", None) is not None else 30.0)


_register()
_rendezvous.install()
atexit.register(_at_exit)
