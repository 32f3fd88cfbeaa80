"""Every operation, against what it has to give computed here. Each function is a case that all ranks run. Used by check.py."""

import contextlib
import io
import os
import re
import sys
import threading
import time
from datetime import timedelta
from unittest import mock

import torch
import torch.distributed as dist
from torch.distributed import ReduceOp

from check import expect

INTEGERS = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
COMPLEX = [torch.complex64, torch.complex128]
TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])
COUNTS = [0, 1, 3, 17, 1000, 100003]


def data(rank, count, dtype, salt=0):
    """What rank `rank` contributes: small numbers, so that sums and products of a few are exact in every type."""
    generator = torch.Generator().manual_seed(1000 * salt + rank)
    values = torch.randint(1, 4, (count,), generator=generator)
    if dtype == torch.bool:
        return values > 1
    if dtype.is_complex:
        return torch.complex(values.double(), values.flip(0).double()).to(dtype)
    return values.to(dtype)


def folded(op, parts):
    """The reduction of all ranks' parts, in wide arithmetic."""
    first = parts[0]
    if first.dtype == torch.bool:
        wide = torch.stack(parts)
        if op in (ReduceOp.SUM, ReduceOp.MAX, ReduceOp.BOR):
            return wide.any(0)
        if op == ReduceOp.BXOR:
            return wide.sum(0) % 2 == 1
        return wide.all(0)
    wide_type = torch.complex128 if first.dtype.is_complex else torch.float64 if first.dtype.is_floating_point else torch.int64
    wide = torch.stack([part.to(wide_type) for part in parts])
    if op == ReduceOp.SUM:
        return wide.sum(0).to(first.dtype)
    if op == ReduceOp.AVG:
        return (wide.sum(0) / len(parts)).to(first.dtype)
    if op == ReduceOp.PRODUCT:
        return wide.prod(0).to(first.dtype)
    if op == ReduceOp.MIN:
        return wide.amin(0).to(first.dtype)
    if op == ReduceOp.MAX:
        return wide.amax(0).to(first.dtype)
    result = wide[0].clone()
    for part in wide[1:]:
        result = {ReduceOp.BAND: result & part, ReduceOp.BOR: result | part, ReduceOp.BXOR: result ^ part}[op]
    return result.to(first.dtype)


def same(got, wanted, what=""):
    assert got.dtype == wanted.dtype and got.shape == wanted.shape, f"{what}: {got.dtype} {got.shape}"
    # AVG of a few may differ in the last bit; all else is exact
    close = torch.allclose(got, wanted, rtol=1e-2 if got.element_size() == 2 else 1e-6) if (
        got.dtype.is_floating_point or got.dtype.is_complex
    ) else torch.equal(got, wanted)
    assert close, f"{what}: {got[:8]} is not {wanted[:8]}"


def allreduce(job):
    """all_reduce: every type and operation, sizes from nothing to what goes in parts."""
    job.init()
    plain = [ReduceOp.SUM, ReduceOp.PRODUCT, ReduceOp.MIN, ReduceOp.MAX]
    bits = [ReduceOp.BAND, ReduceOp.BOR, ReduceOp.BXOR]
    for dtype in INTEGERS + FLOATS + COMPLEX + [torch.bool]:
        if dtype.is_complex:
            ops = [ReduceOp.SUM, ReduceOp.AVG, ReduceOp.PRODUCT]
        elif dtype.is_floating_point:
            ops = plain + [ReduceOp.AVG]
        else:
            ops = plain + bits
        for op in ops:
            for count in COUNTS if op == ReduceOp.SUM else [5, 1000]:
                parts = [data(r, count, dtype) for r in range(job.size)]
                tensor = parts[job.rank].clone()
                pg = dist.distributed_c10d._get_default_group()
                options = dist.AllreduceOptions()
                options.reduceOp = op
                pg.allreduce([tensor], options).wait()
                same(tensor, folded(op, parts) if count else parts[0], f"{op} of {count} {dtype}")


def coalesced(job):
    """Lists: all_reduce of several tensors, coalesced calls, a broadcast to several."""
    pg = job.init()
    tensors = [data(job.rank, 100, torch.float32, salt) for salt in range(3)]
    wanted = folded(ReduceOp.SUM, [data(r, 100, torch.float32, s) for r in range(job.size) for s in range(3)])
    pg.allreduce(tensors).wait()
    for tensor in tensors:
        same(tensor, wanted)
    tensors = [data(job.rank, 10 + salt, torch.int64, salt) for salt in range(4)]
    dist.all_reduce_coalesced(tensors)
    for salt, tensor in enumerate(tensors):
        same(tensor, folded(ReduceOp.SUM, [data(r, 10 + salt, torch.int64, salt) for r in range(job.size)]))
    outputs = [[torch.empty(5 + i) for i in range(3)] for _ in range(job.size)]
    dist.all_gather_coalesced(outputs, [data(job.rank, 5 + i, torch.float32, i) for i in range(3)])
    for r in range(job.size):
        for i in range(3):
            same(outputs[r][i], data(r, 5 + i, torch.float32, i))
    options = dist.BroadcastOptions()
    options.rootRank, options.rootTensor = job.size - 1, 1
    tensors = [data(job.rank, 50, torch.float32, salt) for salt in range(3)]
    pg.broadcast(tensors, options).wait()
    for tensor in tensors:
        same(tensor, data(job.size - 1, 50, torch.float32, 1))


def factors(job):
    """PREMUL_SUM: by a factor of each rank's own, as a number and as a tensor."""
    pg = job.init()

    def tensor_of(factor):
        tensor = torch.tensor([factor], dtype=torch.float64)
        return [tensor] if TORCH < (2,) else tensor

    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        for make in (float, tensor_of):
            tensor = data(job.rank, 1000, dtype)
            options = dist.AllreduceOptions()
            options.reduceOp = dist._make_nccl_premul_sum(make(job.rank + 1.0))
            pg.allreduce([tensor], options).wait()
            same(tensor, sum(data(r, 1000, dtype) * (r + 1.0) for r in range(job.size)), dtype)


def rooted(job):
    """broadcast, reduce, gather, scatter: from and to every rank, small and in parts."""
    job.init()
    for root in range(job.size):
        for count in (0, 7, 5000, 700001):
            tensor = data(job.rank, count, torch.float32, root)
            dist.broadcast(tensor, root)
            same(tensor, data(root, count, torch.float32, root))
            tensor = data(job.rank, count, torch.int32, root)
            dist.reduce(tensor, root)
            parts = [data(r, count, torch.int32, root) for r in range(job.size)]
            same(tensor, folded(ReduceOp.SUM, parts) if job.rank == root and count else parts[job.rank])
            outputs = [torch.empty(count) for _ in range(job.size)] if job.rank == root else None
            dist.gather(data(job.rank, count, torch.float32), outputs, root)
            for r in range(job.size if outputs else 0):
                same(outputs[r], data(r, count, torch.float32))
            output = torch.empty(count)
            inputs = [data(r, count, torch.float32, root) for r in range(job.size)]
            dist.scatter(output, inputs if job.rank == root else None, root)
            same(output, inputs[job.rank])


def blocks(job):
    """all_gather, reduce_scatter: to lists, views and one tensor; small, in parts, uneven."""
    pg = job.init()
    size, rank = job.size, job.rank
    for dtype in (torch.float32, torch.bool, torch.bfloat16, torch.complex128, torch.complex32):
        for count in (0, 5, 700001 if dtype == torch.float32 else 300):
            if dtype == torch.complex32:
                mine = [data(r, 2 * count, torch.float16).view(dtype) for r in range(size)]
            else:
                mine = [data(r, count, dtype) for r in range(size)]
            outputs = [torch.empty_like(mine[0]) for _ in range(size)]
            dist.all_gather(outputs, mine[rank])
            flat = torch.empty(size * count, dtype=dtype)
            views = list(flat.chunk(size)) if count else outputs
            dist.all_gather(views, mine[rank])
            into = torch.empty(size * count, dtype=dtype)
            dist._all_gather_base(into, mine[rank])
            for r in range(size):
                for got in (outputs[r], views[r], into[r * count : (r + 1) * count]):
                    assert torch.equal(got.view(torch.uint8), mine[r].view(torch.uint8)) if count else got.numel() == 0
            if dtype in (torch.bool, torch.complex32):
                continue
            inputs = [[data(r, count, dtype, block) for block in range(size)] for r in range(size)]
            wanted = folded(ReduceOp.SUM, [inputs[r][rank] for r in range(size)]) if count else mine[0]
            output = torch.empty_like(mine[0])
            dist.reduce_scatter(output, inputs[rank])
            same(output, wanted)
            output = torch.empty_like(mine[0])
            dist._reduce_scatter_base(output, torch.cat(inputs[rank]))
            same(output, wanted)
    # in place: the own block of the output
    whole = torch.zeros(size * 100)
    whole[rank * 100 : (rank + 1) * 100] = data(rank, 100, torch.float32)
    dist._all_gather_base(whole, whole[rank * 100 : (rank + 1) * 100])
    same(whole, torch.cat([data(r, 100, torch.float32) for r in range(size)]))
    # blocks of their own sizes
    outputs = [torch.empty(r * 10 + 1) for r in range(size)]
    pg.allgather([outputs], [data(rank, rank * 10 + 1, torch.float32)]).wait()
    for r in range(size):
        same(outputs[r], data(r, r * 10 + 1, torch.float32))
    output = torch.empty(rank * 10 + 1)
    pg.reduce_scatter([output], [[data(rank, r * 10 + 1, torch.float32, r) for r in range(size)]]).wait()
    same(output, folded(ReduceOp.SUM, [data(r, rank * 10 + 1, torch.float32, rank) for r in range(size)]))


def alltoall(job):
    """all_to_all: lists, even and with split sizes, rows of several elements, nothing for some."""
    job.init()
    size, rank = job.size, job.rank

    def block(source, target, count):
        return data(source, count, torch.float32, target)

    inputs = [block(rank, r, rank + 2 * r) for r in range(size)]
    outputs = [torch.empty(r + 2 * rank) for r in range(size)]
    dist.all_to_all(outputs, inputs)
    for r in range(size):
        same(outputs[r], block(r, rank, r + 2 * rank))
    for count in (0, 3, 100000):
        output = torch.empty(size * count, 2)
        dist.all_to_all_single(output, torch.cat([block(rank, r, 2 * count) for r in range(size)]).view(-1, 2))
        same(output, torch.cat([block(r, rank, 2 * count) for r in range(size)]).view(-1, 2))
    inputs = torch.cat([block(rank, r, 3 * (r + rank)) for r in range(size)]).view(-1, 3)
    output = torch.empty(sum(r + rank for r in range(size)), 3)
    splits = [r + rank for r in range(size)]
    dist.all_to_all_single(output, inputs, splits, splits)
    same(output, torch.cat([block(r, rank, 3 * (r + rank)) for r in range(size)]).view(-1, 3))


def messages(job):
    """send and recv: in a ring, crossing, by tags out of order, batched, empty, large."""
    job.init()
    size, rank = job.size, job.rank
    following, previous = (rank + 1) % size, (rank - 1) % size
    for count in (0, 5, 300000):
        got = torch.empty(count)
        if rank == 0:
            dist.send(data(rank, count, torch.float32), following)
            assert dist.recv(got, previous) == previous
        else:
            dist.recv(got, previous)
            dist.send(data(rank, count, torch.float32), following)
        same(got, data(previous, count, torch.float32))
    # everybody receives first, and from everybody
    others = [r for r in range(size) if r != rank]
    got = {r: torch.empty(1000) for r in others}
    works = [dist.irecv(got[r], r) for r in others]
    works += [dist.isend(data(rank, 1000, torch.float32, r), r) for r in others]
    dist.all_reduce(torch.ones(10))  # collectives pass messages that wait
    for work in works:
        work.wait()
    for r in others:
        same(got[r], data(r, 1000, torch.float32, rank))
    # tags are met in any order; messages of one tag in theirs
    sends = [dist.isend(torch.full((4,), 10.0 * tag + i), following, tag=tag) for tag in (1, 2, 3) for i in (0, 1)]
    for tag in (3, 1, 2):
        for i in (0, 1):
            tensor = torch.empty(4)
            dist.recv(tensor, previous, tag=tag)
            assert tensor[0] == 10.0 * tag + i, (tag, i, tensor)
    for work in sends:
        work.wait()
    tensor = torch.empty(100)
    batch = [
        dist.P2POp(dist.isend, data(rank, 100, torch.float32, 9), following),
        dist.P2POp(dist.irecv, tensor, previous),
    ]
    for work in dist.batch_isend_irecv(batch):
        work.wait()
    same(tensor, data(previous, 100, torch.float32, 9))


def asynchronous(job):
    """Works: hundreds in flight, waited for in any order or by nobody; futures, results, polling."""
    job.init()
    count = 300
    tensors = [torch.full((50,), float(job.rank + i)) for i in range(count)]
    works = [dist.all_reduce(tensor, async_op=True) for tensor in tensors]
    for i in reversed(range(count)):
        assert works[i].wait() is True
        assert tensors[i][0] == sum(r + i for r in range(job.size))
    work = dist.all_reduce(torch.ones(4), async_op=True)
    while not work.is_completed():
        pass
    assert work.is_success() and work.result()[0][0] == job.size
    # nobody waits, nobody asks: it is done all the same
    tensor = torch.zeros(100000) + 1
    dist.all_reduce(tensor, async_op=True)
    seen, deadline = tensor.numpy(), time.monotonic() + 60
    while seen[-1] != job.size or seen[0] != job.size:
        assert time.monotonic() < deadline, "no progress without a call"
        time.sleep(0.001)
    # futures, one of which waits for another in its callback
    inner = []

    def again(future):
        inner.append(dist.all_reduce(torch.ones(3), async_op=True).get_future().wait()[0])
        return future.value()[0] * 2

    first = dist.all_reduce(torch.ones(8), async_op=True).get_future()
    second = dist.all_reduce(torch.ones(2), async_op=True).get_future()
    chained = first.then(again)
    assert chained.wait()[0] == 2 * job.size and inner[0][0] == job.size and second.wait()[0][0] == job.size
    for work in [dist.broadcast(torch.ones(10), 0, async_op=True) for _ in range(100)]:
        del work
    dist.barrier()


def backlog(job):
    """More operations than fit in flight: no call waits for another rank, their order stays, and nobody need wait for them."""
    job.init()
    count = 300
    tensors = [torch.full((3 + i % 50,), float(job.rank + i)) for i in range(count)]
    token = torch.zeros(1)
    if job.rank == 1:
        dist.recv(token, 0)  # rank 0 sends it when it has issued everything
    works = [dist.all_reduce(tensor, async_op=True) for tensor in tensors]
    future = works[-1].get_future()
    if job.rank == 0:
        with expect(RuntimeError, f"all_reduce #{count} of rank 0", "has not ended within 50 ms"):
            works[-1].wait(timedelta(milliseconds=50))
        assert not works[-1].is_completed()
        dist.send(token, 1)
    assert future.wait()[0][0] == 2 * (count - 1) + 1
    for i in range(count):
        works[i].wait()
        assert tensors[i][0] == tensors[i][-1] == 2 * i + 1, (i, tensors[i])
    # messages, too: all sent before any is received
    got = torch.empty(3)
    if job.rank == 0:
        works = [dist.isend(torch.full((3,), float(i)), 1) for i in range(count)]
        dist.barrier()
        for work in works:
            work.wait()
    else:
        dist.barrier()
        for i in range(count):
            dist.recv(got, 0)
            assert got[2] == i
    # a group goes with a backlog
    group = dist.new_group()
    tensors = [torch.ones(20000) for _ in range(count)]
    for tensor in tensors:
        dist.all_reduce(tensor, group=group, async_op=True)
    dist.destroy_process_group(group)
    del group  # the last one
    assert all(tensor[-1] == 2 for tensor in tensors)


def timeouts_of_wait(job):
    """wait(timeout) raises while the operation goes on, and can be called again."""
    job.init()
    if job.rank == 0:
        work = dist.all_reduce(torch.ones(4), async_op=True)
        with expect(RuntimeError, "all_reduce #1 of rank 0", "has not ended within 50 ms"):
            work.wait(timedelta(milliseconds=50))
        job.tell("waited")
        work.wait()
        assert work.result()[0][0] == job.size
    else:
        job.await_told("waited")
        dist.all_reduce(torch.ones(4))


def groups(job):
    """Groups of some ranks and of all, crosswise; of one rank; from several threads, also one group; destroyed one by one."""
    job.init()
    size, rank = job.size, job.rank
    twins = [dist.new_group() for _ in range(4)]
    pairs = [dist.new_group([r, (r + 1) % size] if size > 1 else [r]) for r in range(size)]
    alone = [dist.new_group([r]) for r in range(size)][rank]
    for r, pair in enumerate(pairs):
        if rank in (r, (r + 1) % size):
            tensor = torch.tensor([float(rank)])
            dist.all_reduce(tensor, group=pair)
            assert tensor[0] == r + (r + 1) % size
    tensor = torch.tensor([5.0])
    dist.all_reduce(tensor, group=alone)
    gathered = [torch.empty(1)]
    dist.all_gather(gathered, tensor, group=alone)
    dist.barrier(alone)
    assert tensor[0] == 5 and gathered[0][0] == 5
    # ranks wait in different orders
    tensors = [torch.ones(1000) * (i + 1) for i in range(4)]
    works = [dist.all_reduce(tensors[i], group=twins[i], async_op=True) for i in range(4)]
    for i in range(4) if rank % 2 else reversed(range(4)):
        works[i].wait()
        assert tensors[i][0] == size * (i + 1)
    errors = []

    def work_in_thread(i):
        try:
            for k in range(50):
                tensor = torch.full((200,), float(k + i))
                dist.all_reduce(tensor, group=twins[i])
                assert tensor[0] == size * (k + i)
        except BaseException as error:
            errors.append(error)

    def share_a_group(i):  # the calls are alike: any order will do; more than fit in flight
        try:
            tensors = [torch.full((200,), 2.0) for _ in range(100)]
            works = [dist.all_reduce(tensor, group=twins[2], async_op=True) for tensor in tensors]
            works[-1].get_future().wait()
            for tensor, work in zip(tensors, works):
                work.wait()
                assert tensor.eq(2 * size).all()
        except BaseException as error:
            errors.append(error)

    for target in (work_in_thread, share_a_group):
        threads = [threading.Thread(target=target, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors, errors
    dist.destroy_process_group(twins[0])
    dist.all_reduce(tensors[1], group=twins[1])


def objects(job):
    """Python objects, a monitored barrier, sequence numbers, and workers that are forked meanwhile."""
    pg = job.init()
    got = [None] * job.size
    dist.all_gather_object(got, {"rank": job.rank, "text": "x" * job.rank})
    assert [entry["rank"] for entry in got] == list(range(job.size))
    entries = [job.rank, "of rank", job.rank]
    dist.broadcast_object_list(entries, 1)
    assert entries == [1, "of rank", 1]
    pg.monitored_barrier(timedelta(seconds=60))
    backend = pg if TORCH < (2,) else pg._get_backend(torch.device("cpu"))
    assert dist.get_backend() == "thrum" and backend._get_sequence_number_for_group() > 0
    loader = torch.utils.data.DataLoader(list(range(8)), num_workers=1)
    assert sum(int(batch) for batch in loader) == 28
    tensor = torch.ones(3)
    dist.all_reduce(tensor)
    assert tensor[0] == job.size


def train(pg, rank, size, wrap):
    """A few steps of a small model; the losses."""
    torch.manual_seed(7)
    model = wrap(torch.nn.Sequential(torch.nn.Linear(20, 64), torch.nn.ReLU(), torch.nn.Linear(64, 3)), pg)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(rank)
    losses = []
    for _ in range(6):
        inputs = torch.randn(16, 20, generator=generator)
        loss = torch.nn.functional.cross_entropy(model(inputs), inputs[:, :3].argmax(1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, [parameter.detach().clone() for parameter in model.parameters()]


def ddp(job):
    """DistributedDataParallel beside gloo: the same losses and weights; with communication hooks."""
    from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook

    job.init()
    gloo = dist.new_group(backend="gloo")
    ddp_of = torch.nn.parallel.DistributedDataParallel

    def wrap(model, pg):
        return ddp_of(model, process_group=pg, bucket_cap_mb=0.001)  # several buckets

    losses, weights = train(None, job.rank, job.size, wrap)
    gloo_losses, gloo_weights = train(gloo, job.rank, job.size, wrap)
    for got, wanted in zip(weights, gloo_weights):
        if job.size == 2:  # a sum of two has one order
            assert torch.equal(got, wanted)
        assert torch.allclose(got, wanted, rtol=1e-5, atol=1e-7)
    assert all(abs(a - b) < 1e-5 for a, b in zip(losses, gloo_losses)), (losses, gloo_losses)

    def hooked(model, pg):
        model = wrap(model, pg)
        model.register_comm_hook(None, default_hooks.fp16_compress_hook)
        return model

    hooked_losses, _ = train(None, job.rank, job.size, hooked)
    assert abs(hooked_losses[-1] - losses[-1]) < 0.05, (hooked_losses, losses)

    def low_rank(model, pg):
        model = ddp_of(model, process_group=pg)
        state = powerSGD_hook.PowerSGDState(None, matrix_approximation_rank=2, start_powerSGD_iter=2)
        model.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
        return model

    low_rank_losses, low_rank_weights = train(None, job.rank, job.size, low_rank)
    assert all(loss < 10 for loss in low_rank_losses), low_rank_losses
    for weight in low_rank_weights:
        mine = weight.clone()
        dist.broadcast(weight, 0)
        assert torch.equal(mine, weight)


def sharded(job):
    """FSDP, old and new, beside DDP over gloo: the same losses and weights; in bfloat16; saved and loaded."""
    from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict, StateDictOptions
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecision, ShardingStrategy
    from torch.distributed._composable.fsdp import fully_shard

    job.init()
    gloo = dist.new_group(backend="gloo")
    cpu, mesh = torch.device("cpu"), init_device_mesh("cpu", (job.size,))

    def replicated(model, pg):
        return torch.nn.parallel.DistributedDataParallel(model, process_group=pg)

    def old(strategy, **options):
        return lambda model, pg: FullyShardedDataParallel(
            model, device_id=cpu, sharding_strategy=strategy, use_orig_params=True, **options
        )

    # fully_shard of PyTorch 2.6 wants these, which a CPU's stream has not; with modules inside modules it fails over gloo, too
    if not hasattr(torch.cpu.Stream, "record_event"):
        torch.cpu.Stream.record_event = lambda stream, event=None: torch.cpu.Event()
        torch.cpu.Stream.wait_event = lambda stream, event: None

    def new(model, pg):
        fully_shard(model, mesh=mesh)
        new.model = model
        return model

    wanted, gloo_weights = train(gloo, job.rank, job.size, replicated)
    for wrap in (old(ShardingStrategy.FULL_SHARD), old(ShardingStrategy.SHARD_GRAD_OP), old(ShardingStrategy.NO_SHARD), new):
        losses, weights = train(None, job.rank, job.size, wrap)
        assert all(abs(a - b) < 1e-5 for a, b in zip(losses, wanted)), (losses, wanted)
    for got, weight in zip(weights, gloo_weights):
        assert torch.allclose(got.full_tensor(), weight, rtol=1e-5, atol=1e-6)
    half = MixedPrecision(param_dtype=torch.bfloat16, reduce_dtype=torch.bfloat16)
    losses, _ = train(None, job.rank, job.size, old(ShardingStrategy.FULL_SHARD, mixed_precision=half))
    assert all(abs(a - b) < 0.1 for a, b in zip(losses, wanted)), (losses, wanted)
    whole = get_model_state_dict(new.model, options=StateDictOptions(full_state_dict=True))
    set_model_state_dict(new.model, whole, options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=True))
    for got, weight in zip(new.model.parameters(), gloo_weights):
        assert torch.allclose(got.full_tensor(), weight, rtol=1e-5, atol=1e-6)


def newer(job):
    """What came with PyTorch 2: a backend for each device, functional and coalesced collectives, meshes, DTensor."""
    from torch.distributed import _functional_collectives as functional
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

    job.init(backend="cpu:thrum")
    size, rank = job.size, job.rank
    total = sum(range(1, size + 1))
    mine = torch.full((4,), rank + 1.0)
    everybody = torch.arange(1.0, size + 1).repeat_interleave(4)

    same(functional.all_reduce(mine, "sum", dist.group.WORLD).clone(), torch.full((4,), float(total)))
    same(functional.all_reduce(mine, "avg", dist.group.WORLD).clone(), torch.full((4,), total / size))
    same(functional.all_gather_tensor(mine, 0, dist.group.WORLD).clone(), everybody)
    same(functional.reduce_scatter_tensor(everybody, "sum", 0, dist.group.WORLD).clone(), mine * size)
    same(functional.broadcast(mine, size - 1, dist.group.WORLD).clone(), torch.full((4,), float(size)))
    swapped = functional.all_to_all_single(everybody, None, None, dist.group.WORLD).clone()
    same(swapped, torch.full((4 * size,), rank + 1.0))
    for gathered in functional.all_gather_into_tensor_coalesced([mine, mine], dist.group.WORLD):
        same(gathered.clone(), everybody)

    for asynchronous in (False, True):
        tensors = [mine.clone() * i for i in range(5)]
        with dist._coalescing_manager(async_ops=asynchronous) as manager:
            for tensor in tensors:
                dist.all_reduce(tensor)
        if asynchronous:
            manager.wait()
        for i, tensor in enumerate(tensors):
            same(tensor, torch.full((4,), float(total * i)))
    parts, wholes = [torch.empty(4) for _ in range(3)], [torch.empty(4 * size) for _ in range(3)]
    with dist._coalescing_manager():
        for whole in wholes:
            dist.all_gather_into_tensor(whole, mine)
    with dist._coalescing_manager():
        for part, whole in zip(parts, wholes):
            dist.reduce_scatter_tensor(part, whole)
    for part, whole in zip(parts, wholes):
        same(whole, everybody)
        same(part, mine * size)
    for whole in wholes:  # in place
        dist.all_gather_into_tensor(whole, whole[4 * rank : 4 * rank + 4])
        same(whole, everybody)

    group = dist.new_group(timeout=timedelta(seconds=1), group_desc="impatient")
    if rank == 0:
        with expect(dist.DistBackendError, "has not ended within 1000 ms"):
            dist.all_reduce(mine.clone(), group=group)
        job.tell("seen")
    else:
        job.await_told("seen")
    with expect(RuntimeError, "split"):
        dist.split_group(split_ranks=[[r] for r in range(size)])
    narrow = torch.full((8,), 1.5).to(torch.float8_e4m3fn)
    gathered = [torch.empty_like(narrow) for _ in range(size)]
    dist.all_gather(gathered, narrow)
    assert all(part.float()[0] == 1.5 for part in gathered)

    mesh = init_device_mesh("cpu", (size // 2, 2), mesh_dim_names=("outer", "inner"))
    tensor = torch.ones(3)
    dist.all_reduce(tensor, group=mesh.get_group("inner"))
    assert tensor[0] == 2
    line = init_device_mesh("cpu", (size,))
    matrix = torch.arange(6.0 * size * size).reshape(2 * size, 3 * size)
    rows = distribute_tensor(matrix, line, [Shard(0)])
    columns = rows.redistribute(line, [Shard(1)])
    same(columns.to_local(), matrix.chunk(size, 1)[rank])
    product = (rows @ distribute_tensor(matrix.t(), line, [Replicate()])).full_tensor()
    assert isinstance(rows, DTensor) and torch.allclose(product, matrix @ matrix.t())


def example(job):
    """The example trains, and prints over gloo what it prints over Thrum, to the last digit."""
    sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "..", "examples"))
    import torch_digits

    init, printed = dist.init_process_group, {}

    def init_here(backend):
        with mock.patch.object(dist, "init_process_group", init):
            job.init(backend=backend)

    for backend in ("thrum", "gloo"):
        sys.argv = ["torch_digits.py", "--epochs", "3"]
        said = io.StringIO()
        with mock.patch.object(dist, "init_process_group", init_here):
            with contextlib.redirect_stdout(said):
                torch_digits.main()
        printed[backend] = said.getvalue()
    if job.rank == 0:
        assert printed["thrum"] == printed["gloo"] and printed["thrum"].count("epoch") == 3, printed
        assert re.search("final: accuracy=0.9.*weights=identical", printed["thrum"]), printed


def bad_arguments(job):
    """Bad arguments: what is wrong is named, nothing is sent, and the group works on."""
    pg = job.init()
    size, rank = job.size, job.rank
    good = torch.ones(4)
    with expect(ValueError, "several elements in one place"):
        dist.all_reduce(torch.ones(1).expand(4))
    # from 2.0 on torch itself refuses it
    with expect(NotImplementedError, "SparseCPU") if TORCH >= (2, 0) else expect(ValueError, "does not take"):
        pg.broadcast([torch.eye(3).to_sparse()])
    with expect(ValueError, "does not take"):
        pg.allreduce([good, torch.eye(2).to_sparse()])
    with expect(TypeError, "sparse tensors can only be summed"):
        dist.all_reduce(torch.eye(3).to_sparse(), op=ReduceOp.MAX)
    with expect(TypeError, "no BAND of"):
        dist.all_reduce(good, op=ReduceOp.BAND)
    with expect(TypeError, "no AVG of"):
        dist.all_reduce(torch.ones(4, dtype=torch.bool), op=ReduceOp.AVG)
    with expect(TypeError, "elements of type"):
        odd = torch.quantize_per_tensor(good, 0.1, 0, torch.qint8) if TORCH < (2, 2) else good.to(torch.float8_e4m3fnuz)
        pg.allreduce([odd])
    with expect(ValueError, "outside the group"):
        options = dist.BroadcastOptions()
        options.rootRank = size
        pg.broadcast([good], options)
    with expect(ValueError, "there have to be"):
        pg.allgather([[good] * (size + 1)], [good])
    with expect(ValueError, "elements"):
        dist._all_gather_base(torch.ones(4 * size + 1), good)
    with expect(TypeError, "tensors of"):
        pg.alltoall([good] * size, [torch.ones(4, dtype=torch.int32)] * size)
    with expect(ValueError, "add up to"):
        dist.all_to_all_single(torch.ones(4), good, [4] * size, [3] * size)
    with expect(ValueError, "lists of outputs"):
        pg.gather([[torch.empty(4)] * size], [good]) if rank else pg.gather([], [good])
    with expect(ValueError, "itself"):
        pg.send([good], rank, 0)
    with expect(ValueError, "outside the group"):
        pg.send([good], size, 0)
    with expect(ValueError, "has no pg_options"):
        dist.new_group(pg_options=object())
    dist.all_reduce(good)
    assert good[0] == size


def left_open(job):
    """A program that ends without destroying its groups, with work in flight that nobody waits for."""
    job.init()
    job.ends_as_program = True
    dist.all_reduce(torch.ones(10))
    job.works = [dist.all_reduce(torch.ones(100000), async_op=True) for _ in range(5)]
    job.works.append(dist.isend(torch.ones(5), 1) if job.rank == 0 else dist.irecv(torch.ones(5), 0))
    job.works[0].get_future()


def unless(test, reason):
    """For a case that can only run where `test` does: the reason why it cannot, or None."""
    try:
        test()
    except Exception as error:
        return f"{reason}: {error}".splitlines()[0]


def import_fsdp():
    import torch.distributed.fsdp

    if TORCH < (2, 6):
        raise ImportError("FSDP for the CPU and its new interface are later")


def import_tensor():
    import torch.distributed.tensor


sharded.missing = unless(import_fsdp, f"PyTorch {torch.__version__} cannot do this")
newer.missing = unless(import_tensor, f"PyTorch {torch.__version__} cannot do this")

CASES = [
    (allreduce, (2, 3), {}),
    (coalesced, (2, 3), {}),
    (factors, (2,), {}),
    (rooted, (2, 3), {}),
    (blocks, (2, 3), {}),
    (alltoall, (2, 4), {}),
    (messages, (2, 4), {}),
    (asynchronous, (2, 3), {}),
    (backlog, (2,), {}),
    (timeouts_of_wait, (2,), {}),
    (groups, (2, 4), {}),
    (objects, (2,), {}),
    (ddp, (2, 3), {}),
    (sharded, (2,), {}),
    (newer, (2, 4), {}),
    (example, (2,), {}),
    (bad_arguments, (2,), {}),
    (left_open, (2,), {}),
]
