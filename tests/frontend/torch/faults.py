"""What goes wrong, and what Python sees of it. Each function is a case that all ranks run. Used by check.py."""

import importlib
import os
import signal
import sys
from datetime import timedelta

import torch
import torch.distributed as dist

import thrum_torch
from check import expect


def deadline(job):
    """A rank that does not come: after the group's timeout an exception names the call and the rank; later calls too."""
    pg = job.init(timeout=1.0)
    if job.rank == 0:
        with expect(RuntimeError, "all_reduce #1 of rank 0", "has not ended within 1000 ms", "rank 1 has not called it"):
            dist.all_reduce(torch.ones(4))
        with expect(RuntimeError, "rank 1 has not called it"):
            dist.barrier()
        job.tell("seen")
    else:
        job.await_told("seen")
        with expect(RuntimeError, "rank 1 has not called it"):
            pg.allreduce([torch.ones(4)]).wait()


def stopped(job):
    """A rank that has been stopped: named after the timeout; the others and it end with an exception."""
    job.init(timeout=1.0)
    dist.all_reduce(torch.ones(4))
    if job.rank == 1:
        job.store.set("pid", str(os.getpid()))
        job.await_told("seen")
        with expect(RuntimeError, "rank 1"):
            dist.all_reduce(torch.ones(4))  # for which all is there: it may end before this rank learns what has become of it
            dist.all_reduce(torch.ones(4))
        return
    pid = int(job.store.get("pid"))
    os.kill(pid, signal.SIGSTOP)
    try:
        with expect(RuntimeError, "has not ended within 1000 ms", "rank 1 does not answer"):
            dist.all_reduce(torch.ones(4))
    finally:
        os.kill(pid, signal.SIGCONT)
    job.tell("seen")


def death(job):
    """A rank that is killed: named at once by waits, futures, and later calls, of every group that it was in."""
    job.init()
    group = dist.new_group()
    dist.all_reduce(torch.ones(4))
    if job.rank == 2:
        job.await_told("waiting 0")
        job.await_told("waiting 1")
        os.kill(os.getpid(), signal.SIGKILL)
    work = dist.all_reduce(torch.ones(4), async_op=True)
    future = dist.all_reduce(torch.ones(4), group=group, async_op=True).get_future()
    job.tell(f"waiting {job.rank}")
    with expect(RuntimeError, "rank 2 has died"):
        work.wait()
    assert work.is_completed() and not work.is_success()
    with expect(RuntimeError, "rank 2 has died"):
        future.wait()
    with expect(RuntimeError, "rank 2 has died"):
        dist.broadcast(torch.ones(4), 0)


def death_with_backlog(job):
    """A rank is killed while others have more operations waiting than fit in flight, sparse ones first: every one raises."""
    job.init()
    if job.rank == 1:
        job.await_told("waiting")
        os.kill(os.getpid(), signal.SIGKILL)
    works = [dist.all_reduce(torch.eye(3).to_sparse(), async_op=True) for _ in range(2)]
    works += [dist.all_reduce(torch.ones(4), async_op=True) for _ in range(200)]
    job.tell("waiting")
    for i in reversed(range(len(works))):
        with expect(RuntimeError, f"all_reduce #{i + 1} of rank 0", "rank 1 has died"):
            works[i].wait()


def dead_sender(job):
    """The sender of a message that is waited for dies: the receive raises and says so."""
    job.init()
    tensor = torch.ones(4)
    if job.rank == 1:
        dist.send(tensor, 0)
        job.await_told("waiting")
        os.kill(os.getpid(), signal.SIGKILL)
    dist.recv(tensor, 1)
    work = dist.irecv(tensor, 1)
    job.tell("waiting")
    with expect(RuntimeError, "messages from rank 1 (0 here) to rank 0 (1 here), tag 0: rank 0 has died"):
        work.wait()


def never_met(job):
    """The other side of messages that were never exchanged before dies: send and receive, made before and after, raise."""
    job.init()
    dist.all_reduce(torch.ones(4))
    if job.rank == 1:
        job.await_told("waiting")
        os.kill(os.getpid(), signal.SIGKILL)
    works = {"recv": dist.irecv(torch.ones(4), 1), "send": dist.isend(torch.ones(4), 1, tag=3)}
    job.tell("waiting")
    for name in works:
        with expect(RuntimeError, f"{name} #1 of rank 0", "waiting for rank 1", "rank 1 has died"):
            works[name].wait()
    with expect(RuntimeError, "recv #1 of rank 0", "rank 1 has died"):
        dist.recv(torch.ones(4), 1, tag=4)
    with expect(RuntimeError, "recv #2 of rank 0", "rank 1 has died"):
        dist.recv(torch.ones(4), 1, tag=4)


def left_early(job):
    """A rank that is through and has left does not matter to the first messages of others."""
    job.init()
    dist.barrier()
    if job.rank == 2:
        dist.destroy_process_group()
        job.tell("left")
        return
    job.await_told("left")
    tensor = torch.full((4,), float(job.rank))
    dist.send(tensor, 1) if job.rank == 0 else dist.recv(tensor, 0)
    assert tensor[0] == 0


def absent_sender(job):
    """Nobody sends: the receive raises after the group's timeout, and the group goes without waiting."""
    job.init(timeout=1.0)
    if job.rank == 0:
        with expect(RuntimeError, "recv #1 of rank 0", "rank 1 has not come in time"):
            dist.recv(torch.ones(4), 1)
        dist.irecv(torch.ones(4), 1, tag=5)  # is still waiting when the group is destroyed
        job.tell("seen")
    else:
        job.await_told("seen")


def mismatch(job):
    """Ranks that call different things: an exception on each that names both calls."""
    job.init()
    two = [dist.new_group() for _ in range(3)]
    with expect(RuntimeError, "ranks disagree", "count=4", "count=5"):
        dist.all_reduce(torch.ones(4 + job.rank))
    with expect(RuntimeError, "ranks disagree", "float32", "int32"):
        dist.all_reduce(torch.ones(4, dtype=(torch.float32, torch.int32)[job.rank]), group=two[0])
    with expect(RuntimeError, "ranks disagree", "allreduce", "barrier"):
        dist.barrier(two[1]) if job.rank else dist.all_reduce(torch.ones(3), group=two[1])
    with expect(RuntimeError, "4 float32", "5 float32"):
        dist.recv(torch.ones(5), 0, group=two[2]) if job.rank else dist.send(torch.ones(4), 1, group=two[2])


def missing_at_init(job):
    """A rank that never joins: init_process_group raises after its timeout."""
    if job.rank == 0:
        with expect(RuntimeError, "rank 0 cannot join process group", "1"):
            job.init(timeout=1.0)


def monitored(job):
    """A monitored barrier names who has not come, on all ranks, and leaves the group as it was."""
    pg = job.init()
    if job.rank != 2:
        with expect(RuntimeError, "rank 2 did not come to the monitored barrier"):
            pg.monitored_barrier(timedelta(milliseconds=300 if job.rank == 0 else 60000), wait_all_ranks=True)
        job.tell(f"seen {job.rank}")
    else:
        job.await_told("seen 0")
        job.await_told("seen 1")
    dist.barrier()


def error_in_flight(job):
    """A program that ends by an error with work in flight does not wait for it, and the others learn of it."""
    job.init()
    dist.barrier()
    if job.rank == 0:
        job.ends_as_program = True
        dist.all_reduce(torch.ones(4), async_op=True)
        raise RuntimeError("this error is part of the test")
    with expect(RuntimeError, "rank 0"):
        while True:
            dist.barrier()


def shut_down(job):
    """Calls on a group that has been shut down raise."""
    pg = job.init()
    dist.barrier()
    work = dist.all_reduce(torch.ones(4), async_op=True)
    thrum_torch._C.shut_down(60.0)
    assert work.wait() and work.result()[0][0] == job.size
    with expect(RuntimeError, "has been destroyed"):
        pg.allreduce([torch.ones(4)])


def imports(job):
    """What is missing is named: PyTorch, the extension, its version, Thrum's library."""
    package = os.path.dirname(thrum_torch.__file__)

    def load(files):
        folder = os.path.join(job.folder, f"package{load.count}")
        load.count += 1
        os.makedirs(os.path.join(folder, "thrum_torch"))
        for name, content in files.items():
            with open(os.path.join(folder, "thrum_torch", name), "wb") as file:
                file.write(content)
        sys.path.insert(0, folder)
        for name in [name for name in sys.modules if name.startswith("thrum_torch")]:
            del sys.modules[name]
        importlib.invalidate_caches()
        importlib.import_module("thrum_torch")

    load.count = 0
    files = {}
    for name in ("__init__.py", "_rendezvous.py", "_build.py", "_C.so"):
        with open(os.path.join(package, name), "rb") as file:
            files[name] = file.read()
    with expect(ImportError, "the extension has not been built"):
        load({name: files[name] for name in ("__init__.py", "_rendezvous.py")})
    with expect(ImportError, "was built for PyTorch 0.4.0", torch.__version__):
        load({**files, "_build.py": b'TORCH_VERSION = "0.4.0"\nPYTHON_VERSION = (3, 11)\n'})
    with expect(ImportError, "was built for Python 2.7"):
        load({**files, "_build.py": files["_build.py"].split(b"PYTHON")[0] + b"PYTHON_VERSION = (2, 7)\n"})
    with expect(ImportError, "does not find Thrum's library", "LD_LIBRARY_PATH"):
        load({**files, "_C.so": files["_C.so"].replace(b"libthrum.so.0", b"libthrum.so.9")})
    with expect(ImportError, "cannot be loaded"):
        load({**files, "_C.so": b"no library"})
    sys.modules["torch"] = None
    with expect(ImportError, "needs PyTorch", "python3-torch"):
        load(files)


CASES = [
    (deadline, (2,), {}),
    (stopped, (2,), {}),
    (death, (3,), {2: -signal.SIGKILL}),
    (death_with_backlog, (2,), {1: -signal.SIGKILL}),
    (dead_sender, (2,), {1: -signal.SIGKILL}),
    (never_met, (2,), {1: -signal.SIGKILL}),
    (left_early, (3,), {}),
    (absent_sender, (2,), {}),
    (mismatch, (2,), {}),
    (missing_at_init, (2,), {}),
    (monitored, (3,), {}),
    (error_in_flight, (2,), {0: 1}),
    (shut_down, (2,), {}),
    (imports, (1,), {}),
]
