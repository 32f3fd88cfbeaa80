"""recv from any source, and what is missing when no more threads can be had. Each function is a case that all ranks run.
Used by check.py."""

import contextlib
import ctypes
import os
import resource
import signal
import threading
import time
from datetime import timedelta

import torch
import torch.distributed as dist

from check import expect


def value(rank, number):
    return 100.0 * rank + number


def receive(group=None, tag=0, count=4):
    """(sender, its value)"""
    tensor = torch.full((count,), -1.0)
    source = dist.recv(tensor, group=group, tag=tag)
    assert tensor.eq(tensor[0]).all(), tensor
    return source, tensor[0].item()


def script(job, group, takes_nothing=True):
    """What rank 0 got, in an order that is the same for all backends; gloo cannot receive nothing from any source."""
    size, rank, each = job.size, job.rank, 5
    if rank:
        for i in range(each):
            dist.send(torch.full((4,), value(rank, i)), 0, group=group)
        dist.send(torch.full((3000,), value(rank, 70)), 0, group=group, tag=7)
        dist.send(torch.full((70000,), value(rank, 71)), 0, group=group, tag=7)
        if takes_nothing:
            dist.send(torch.empty(0), 0, group=group, tag=8)
        dist.send(torch.full((4,), value(rank, 90)), 0, group=group)
        dist.barrier(group)
        return []
    got = [receive(group) for _ in range((size - 1) * each)]
    order = {r: [number for source, number in got if source == r] for r in range(1, size)}
    sizes = [receive(group, 7, 3000) for _ in range(size - 1)] if size == 2 else []
    for r in range(1, size):  # each has two messages of their own sizes
        if not sizes or r > 1:
            tensor = torch.empty(3000)
            dist.recv(tensor, r, group=group, tag=7)
            sizes.append((r, tensor[-1].item()))
    large = sorted(receive(group, 7, 70000) for _ in range(size - 1))
    if takes_nothing:
        assert sorted(dist.recv(torch.empty(0), group=group, tag=8) for _ in range(size - 1)) == list(range(1, size))
    tensor = torch.empty(4)
    last = [(dist.recv(tensor, r, group=group), tensor[0].item()) for r in range(1, size)]
    dist.barrier(group)
    return [order, sizes, large, last]


def anysource(job):
    """recv from any source: who sent, its messages in order, tags, sizes from nothing on; then from each; as over gloo."""
    job.init()
    wanted = script(job, dist.new_group(backend="gloo"), takes_nothing=False)
    for group in (None, dist.new_group()):
        got = script(job, group)
        assert got == wanted, (got, wanted)
    tensor = torch.empty(4)
    if job.rank == 0 and job.size > 2:  # what a receive that named its sender took is not there for others
        for _ in range(2):
            dist.recv(tensor, 1, tag=9)
        job.tell("taken")
        assert receive(tag=9) == (2, 2.0)
    elif job.rank == 1 and job.size > 2:
        for _ in range(2):
            dist.send(torch.full((4,), 1.0), 0, tag=9)
    elif job.rank == 2:
        job.await_told("taken")
        dist.send(torch.full((4,), 2.0), 0, tag=9)
    if job.rank == 0:
        order, _, large, last = wanted
        for r in range(1, job.size):
            assert order[r] == [value(r, i) for i in range(5)]
        assert large == [(r, value(r, 71)) for r in range(1, job.size)]
        assert last == [(r, value(r, 90)) for r in range(1, job.size)]


def several(job):
    """Several receives from any source in flight, with others behind: each message is taken once, in the order of the calls."""
    pg = job.init()
    if job.rank:
        job.await_told("posted")
        for i in range(6):
            dist.isend(torch.full((4,), value(job.rank, i)), 0)
            dist.isend(torch.full((2,), value(job.rank, i)), 0, tag=1)
        dist.barrier()
        return
    senders = range(1, job.size)
    tensors = [torch.empty(4) for _ in range(2 * len(senders))]
    works = [dist.irecv(tensor) for tensor in tensors]
    futures = [work.get_future() for work in works[:2]]
    named = {r: torch.empty(4) for r in senders}
    behind = {r: dist.irecv(named[r], r) for r in senders}  # after two of its messages, or fewer
    more = [torch.empty(4) for _ in range(len(senders))]
    works += [dist.irecv(tensor) for tensor in more]
    other = [torch.empty(2) for _ in range(6 * len(senders))]
    others = [pg.recv_anysource([tensor], 1) for tensor in other]
    assert not works[0].is_completed() and not behind[1].is_completed()
    with expect(RuntimeError, "recv of rank 0", "messages to rank 0, tag 0", "has not got a message within 50 ms"):
        works[-1].wait(timedelta(milliseconds=50))
    job.tell("posted")
    for work in reversed(works + list(behind.values())):
        work.wait()
    assert futures[1].wait()[0] is tensors[1]
    got = {r: [] for r in senders}
    for work, tensor in zip(works, tensors + more):
        got[work._source_rank()].append(tensor[0].item())
    for r in senders:
        # its messages were taken in order, one of them by the receive that named it; nothing is left out but the last ones
        taken = got[r] + [named[r][0].item()]
        assert sorted(taken) == [value(r, i) for i in range(len(taken))] and got[r] == sorted(got[r]), (r, got, named)
        assert job.size > 2 or named[r][0] == value(r, 2), named
    for r in senders:  # what is left is still there
        for i in range(len(got[r]) + 1, 6):
            tensor = torch.empty(4)
            assert dist.recv(tensor, r) == r and tensor[0] == value(r, i)
    while not all(work.is_completed() for work in others):
        pass
    order = {r: [] for r in senders}
    for work, tensor in zip(others, other):
        order[work._source_rank()].append(tensor[0].item())
    assert order == {r: [value(r, i) for i in range(6)] for r in senders}, order
    dist.barrier()


def fair(job):
    """A sender with a backlog does not keep others waiting; copies of what is spread in memory come back; threads take turns."""
    job.init()
    if job.rank:
        number = 201 if job.rank == 1 else 3
        works = [dist.isend(torch.full((4,), value(job.rank, i)), 0) for i in range(number)]
        for work in works[:3]:  # the first meets its receive, the others go at once
            work.wait()
        dist.barrier()
        for work in works:
            work.wait()
        dist.barrier()
        return
    for r in range(1, job.size):
        dist.recv(torch.empty(4), r)
    dist.barrier()
    first = [receive()[0] for _ in range(2 * (job.size - 1) + 20)]
    assert all(first.count(r) == 2 for r in range(2, job.size)), first
    wide = torch.full((4, 3), -1.0)
    work = dist.irecv(wide[:, 1])
    work.wait()
    assert wide[:, 1].eq(wide[0, 1]).all() and wide.eq(-1).sum() == 8
    got, errors = [], []

    def take():
        try:
            for _ in range(20):
                got.append(receive())
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=take) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and len(set(got)) == 60, (errors, got)
    for _ in range(200 + 2 * (job.size - 2) - len(first) - 61):
        receive()
    dist.barrier()


def unhindered(job):
    """A receive that waits for room until its sender comes hinders neither those from others nor who waits for a time."""
    os.environ["THRUM_STAGE_BYTES"] = "256K"  # for a message of 50000 numbers, not for those before it as well
    job.init()
    sizes = [10000, 20000, 50000, 1000, 1000]
    if job.rank == 1:
        for tag in range(2):
            dist.send(torch.ones(4), 0, tag=tag)
        for tag, told in enumerate(("got", "got without waiting")):
            job.await_told(told)
            for i, size in enumerate(sizes):
                dist.send(torch.full((size,), value(1, i)), 0, tag=tag)
        return
    if job.rank == 2:
        for tag in (0, 0, 1):
            dist.send(torch.full((4,), value(2, tag)), 0, tag=tag)
        job.await_told("first")
        dist.send(torch.full((4,), value(2, 2)), 0, tag=1)
        return
    for tag in range(2):  # they have met
        dist.recv(torch.empty(4), 1, tag=tag)
    assert dist.recv(torch.empty(4), 2) == 2
    tensors = [torch.empty(size) for size in sizes]
    works = []

    def post():
        for tensor in tensors[:4]:
            works.append(dist.irecv(tensor, 1))

    thread = threading.Thread(target=post)
    thread.start()
    thread.join(0.5)  # by then it waits in one of its calls, or is through
    begun, posted = time.monotonic(), len(works)
    later = dist.irecv(tensors[4], 1)  # behind what is being issued
    for work in (works[0], later):
        with expect(RuntimeError, "recv", "within 50 ms"):
            work.wait(timedelta(milliseconds=50))
    assert receive() == (2, value(2, 0))
    assert time.monotonic() < begun + 30, "it was the deadline that ended it"
    job.tell("got")
    thread.join()
    assert posted == 2, f"{posted} calls without room: the test has to have one that waits"
    for work in works + [later]:
        work.wait()
    numbers = [tensor[-1].item() for tensor in tensors]
    assert numbers == [value(1, i) for i in (0, 1, 2, 4, 3)], numbers
    # those that get their lane from the inbox's thread, where nobody waits
    first, last = torch.empty(4), torch.empty(4)
    works = [dist.irecv(first, tag=1)] + [dist.irecv(tensor, 1, tag=1) for tensor in tensors]
    last_work = dist.irecv(last, tag=1)
    while not works[0].is_completed():
        time.sleep(0.001)
    job.tell("first")
    begun = time.monotonic()
    while not last_work.is_completed():
        assert time.monotonic() < begun + 30, "the inbox's thread waits for rank 1"
        time.sleep(0.001)
    assert first[0] == value(2, 1) and last[0] == value(2, 2)
    job.tell("got without waiting")
    for i, work in enumerate(works[1:]):
        work.wait()
        assert tensors[i][-1] == value(1, i)


def any_death(job):
    """Somebody dies while others wait for any source: named at once, by receives that wait and later ones, and behind them."""
    job.init()
    dist.barrier()
    if job.rank == 2:
        dist.send(torch.ones(4), 0)
        job.await_told("waiting 0")
        job.await_told("waiting 1")
        os.kill(os.getpid(), signal.SIGKILL)
    if job.rank == 0:
        assert receive() == (2, 1.0)
    work, behind = dist.irecv(torch.ones(4), tag=3), dist.irecv(torch.ones(4), 2, tag=3)
    future = dist.irecv(torch.ones(4)).get_future()
    job.tell(f"waiting {job.rank}")
    for waiting in (work, behind, future):
        with expect(RuntimeError, "recv", f"of rank {job.rank}", "rank 2", "has died"):
            waiting.wait()
    with expect(RuntimeError, "rank 2", "has died"):
        dist.recv(torch.ones(4))


def any_silence(job):
    """Nobody sends: the receive raises after the group's timeout; what comes later is received all the same; groups go."""
    job.init(timeout=1.0)
    if job.rank:
        job.await_told("seen")
        dist.send(torch.full((4,), 5.0), 0)
        job.await_told("received")  # a sender may leave when its message was eager or received, not before
        return
    with expect(RuntimeError, "recv of rank 0", "tag 0", "waiting for any rank: nobody has sent a message within 1000 ms"):
        dist.recv(torch.ones(4))
    job.tell("seen")
    assert receive() == (1, 5.0)
    left = dist.irecv(torch.ones(4), tag=5)  # still waits when the group is destroyed
    job.tell("received")
    dist.destroy_process_group()
    with expect(RuntimeError, "destroyed before anybody sent"):
        left.wait()


def any_left(job):
    """Senders that are through and have left do not matter to who waits for any source."""
    job.init()
    if job.rank == 0:
        got = [receive() for _ in range(2 * (job.size - 1))]
        assert sorted(got) == sorted((r, value(r, i)) for r in range(1, job.size) for i in range(2)), got
        return
    if job.rank > 1:
        job.await_told(f"left {job.rank - 1}")
    for i in range(2):
        dist.send(torch.full((4,), value(job.rank, i)), 0)
    dist.destroy_process_group()
    job.tell(f"left {job.rank}")


@contextlib.contextmanager
def no_more_threads():
    """New threads fail: their stacks would be larger than all memory."""
    libc = ctypes.CDLL(None)
    attributes = ctypes.create_string_buffer(256)
    size = ctypes.c_size_t()
    assert libc.pthread_getattr_default_np(attributes) == 0
    assert libc.pthread_attr_getstacksize(attributes, ctypes.byref(size)) == 0
    for wanted in (1 << 60, size.value):
        assert libc.pthread_attr_setstacksize(attributes, ctypes.c_size_t(wanted)) == 0
        assert libc.pthread_setattr_default_np(attributes) == 0
        if wanted != size.value:
            yield


def threadless(job):
    """Without more threads calls that need one raise, or do its work; nothing is left waiting, and later ones work."""
    job.init()
    count = 150
    dist.barrier()
    if job.rank == 1:
        job.await_told("issuing")
    with no_more_threads() if job.rank == 0 else contextlib.nullcontext():
        if job.rank == 0:
            for call in (lambda: dist.irecv(torch.ones(4), 1), lambda: dist.irecv(torch.ones(4)), lambda: dist.isend(torch.ones(4), 1)):
                with expect(RuntimeError, "no thread can be started"):
                    call()
            work = dist.all_reduce(torch.ones(4), async_op=True)
            with expect(RuntimeError, "no thread can be started for its future"):
                work.get_future()
            job.tell("issuing")
        else:
            dist.all_reduce(torch.ones(4))
        tensors = [torch.full((40,), float(i + job.rank)) for i in range(count)]
        works = [dist.all_reduce(tensor, async_op=True) for tensor in tensors]  # more than fit in flight
        for i in range(count):
            works[i].wait()
            assert tensors[i][7] == 2 * i + 1
        tensor = torch.eye(3).to_sparse()
        dist.all_reduce(tensor)  # issued in two turns
        assert tensor.to_dense().eq(2 * torch.eye(3)).all()
        spread = torch.ones(4, 4)
        dist.all_reduce(spread[:, 1])
        assert spread.sum() == 12 + 8
    tensor = torch.full((4,), 3.0)
    dist.send(tensor, 0) if job.rank else dist.recv(tensor)
    assert dist.all_reduce(torch.ones(4), async_op=True).get_future().wait()[0][0] == 2


def no_memory_amid(job):
    """A call fails on one rank when a part of it has been issued: it raises there, and the others learn of it at once."""
    job.init(timeout=100.0)
    number = 1 << 24
    tensor = torch.sparse_coo_tensor(
        torch.zeros(1, job.rank, dtype=torch.int64), torch.ones(job.rank, number), (2, number)
    )
    dist.all_reduce(torch.eye(2).to_sparse())
    begun = time.monotonic()
    if job.rank == 0:
        with open("/proc/self/statm") as file:
            mapped = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + number, resource.RLIM_INFINITY))
        try:
            with expect(RuntimeError, "all_reduce #2 of rank 0", "allocate"):
                dist.all_reduce(tensor)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    else:
        with expect(RuntimeError, "all_reduce #2 of rank 1", "rank 0", "abort"):
            dist.all_reduce(tensor)
    with expect(RuntimeError, "abort"):
        dist.barrier()
    assert time.monotonic() < begun + 90, "it was the deadline that ended it"


CASES = [
    (anysource, (2, 4), {}),
    (several, (2, 3), {}),
    (fair, (3,), {}),
    (unhindered, (3,), {}),
    (any_death, (3,), {2: -signal.SIGKILL}),
    (any_silence, (2,), {}),
    (any_left, (4,), {}),
    (threadless, (2,), {}),
    (no_memory_amid, (2,), {}),
]
