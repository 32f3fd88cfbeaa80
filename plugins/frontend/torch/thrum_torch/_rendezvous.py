"""init_process_group() without torchrun: where a launcher that Thrum knows started the ranks, they find rank 0's store by it.

Torch's own env:// stays what it is wherever its variables are set.
"""

import os
import socket
import sys

from torch.distributed import TCPStore

from . import _C


def _store(*args, **kwargs):
    try:
        return TCPStore(*args, wait_for_workers=False, **kwargs)
    except RuntimeError as error:
        if "libuv" not in str(error):
            raise
        # PyTorch wants libuv by default, also where it was built without, as Debian's 2.6 is
        return TCPStore(*args, wait_for_workers=False, use_libuv=False, **kwargs)


def _meet(url, timeout=None, **kwargs):
    """Handler for init_method: as torch's, a generator of (store, rank, world size)."""
    rank, size, _ = _C.launched()
    if size == 0:
        raise ValueError("thrum://: no launcher that Thrum knows has started this process")
    extra = {} if timeout is None else {"timeout": timeout}
    host = socket.gethostname()
    store = None
    if rank == 0:
        store = _store("127.0.0.1", 0, size, True, **extra)
    said = _C.spread(f"{host} {store.port}" if store else "")
    if not store:
        root, port = said.split()
        store = _store("127.0.0.1" if root == host else root, int(port), size, False, **extra)
    yield (store, rank, size)
    raise RuntimeError("thrum://: ranks cannot meet again")


def install():
    torch_rendezvous = sys.modules["torch.distributed.rendezvous"]  # torch.distributed.rendezvous is a function of it
    torch_rendezvous.register_rendezvous_handler("thrum", _meet)
    handlers = getattr(torch_rendezvous, "_rendezvous_handlers", getattr(torch_rendezvous, "rendezvous_handlers", None))
    if not isinstance(handlers, dict) or "env" not in handlers:
        return  # then it takes init_method="thrum://"
    by_env = handlers["env"]

    def env(url, timeout=None, **kwargs):
        given = "rank=" in url or any(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))
        if not given and _C.launched()[1] > 0:
            return _meet(url, timeout, **kwargs)
        return by_env(url, **kwargs) if timeout is None else by_env(url, timeout, **kwargs)

    handlers["env"] = env
