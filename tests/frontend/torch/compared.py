"""What torch builds on collectives, over gloo and over Thrum: the same results. Each function is a case that all ranks run.
Used by check.py."""

import warnings
from unittest import mock

import torch
import torch.distributed as dist
from torch.distributed import ReduceOp

from check import expect


def close(got, wanted):
    if isinstance(wanted, torch.Tensor):
        return got.dtype == wanted.dtype and got.shape == wanted.shape and torch.allclose(got, wanted, rtol=1e-5, atol=1e-6)
    if isinstance(wanted, (list, tuple)):
        return len(got) == len(wanted) and all(close(a, b) for a, b in zip(got, wanted))
    return got == wanted


def compare(job, *functions):
    """Each function gives the same for a group of either backend."""
    job.init()
    warnings.simplefilter("ignore")  # torch's own, of functions that it calls old
    for function in functions:
        wanted = function(dist.new_group(backend="gloo"), job.rank, job.size)
        got = function(dist.new_group(), job.rank, job.size)
        assert close(got, wanted), f"{function.__name__}: {got} is not {wanted}"


def gathered_objects(group, rank, size):
    got = [None] * size if rank == 1 else None
    dist.gather_object({"rank": rank, "text": "x" * 5000 * rank}, got, 1, group=group)
    return got


def scattered_objects(group, rank, size):
    got = [None]
    dist.scatter_object_list(got, [(r, "y" * r) for r in range(size)] if rank == 0 else None, 0, group=group)
    return got


def all_objects(group, rank, size):
    entries, got = [rank, None, "z"], [None] * size
    dist.broadcast_object_list(entries, 2, group=group)
    dist.all_gather_object(got, "y" * (rank * 30000), group=group)
    return entries, [len(text) for text in got]


def subgroups(group, rank, size):
    backend, results = dist.get_backend(group), []
    with mock.patch("torch.cuda.is_available", return_value=True):  # torch 1.13 asks, and wants nothing else of it
        made = [
            dist.new_subgroups(2, backend=backend)[0],
            dist.new_subgroups_by_enumeration([[0, 2], [1, 3]], backend=backend)[0],
        ]
    for own in made:
        tensor = torch.tensor([float(rank)])
        dist.all_reduce(tensor, group=own)
        results += [tensor, dist.get_rank(own), dist.get_world_size(own), dist.get_global_rank(own, 1)]
    return results


def subset(group, rank, size):
    """Ranks that count otherwise than those of the job: roots, senders, and the sender of a receive from any source."""
    some = dist.new_group([1, 3], backend=dist.get_backend(group))
    if rank not in (1, 3):
        return dist.get_rank(some)
    tensor, source = torch.full((3,), float(rank)), None
    dist.broadcast(tensor, 3, group=some)
    if rank == 3:
        dist.send(tensor * 5, 1, group=some, tag=2**31 - 1)
    else:
        source = dist.recv(tensor, group=some, tag=2**31 - 1)
    return tensor, source


def works(group, rank, size):
    tensor = torch.full((2,), float(rank))
    work = dist.all_reduce(tensor, group=group, async_op=True)
    added = work.get_future().then(lambda future: future.value()[0] + 1).wait()
    barrier = dist.barrier(group=group, async_op=True)
    barrier.wait()
    return added, work.is_success(), barrier.is_completed()


def odd_tensors(group, rank, size):
    number, scalar = torch.tensor(float(rank)), torch.tensor(rank + 1)
    dist.broadcast(number, 1, group=group)
    dist.all_reduce(scalar, op=ReduceOp.PRODUCT, group=group)
    scalars = [torch.empty(()) for _ in range(size)]
    dist.all_gather(scalars, torch.tensor(float(rank)), group=group)
    parameter = torch.ones(3, requires_grad=True)
    dist.all_reduce(parameter, group=group)
    lists = [torch.ones(2) * (rank + 1), torch.ones(2) * 10]
    dist.all_reduce_multigpu(lists, group=group) if hasattr(dist, "all_reduce_multigpu") else group.allreduce(lists).wait()
    return number, scalar, scalars, parameter.detach(), lists


def differentiated(group, rank, size):
    """torch.distributed.nn: collectives that have gradients."""
    import torch.distributed.nn.functional as functional

    def leaf():
        return torch.full((3,), rank + 1.0, requires_grad=True)

    summed, gathered, sent = leaf(), leaf(), leaf()
    functional.all_reduce(summed * summed, group=group).sum().backward()
    sum(i * part.sum() for i, part in enumerate(functional.all_gather(gathered, group=group))).backward()
    functional.broadcast(sent, 0, group=group).sum().backward()
    return summed.grad, gathered.grad, sent.grad


def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 2))


def trained(group, rank, size, make_optimizer=None, steps=3, **options):
    model = torch.nn.parallel.DistributedDataParallel(net(), process_group=group, **options)
    optimizer = (make_optimizer or torch.optim.SGD)(model.parameters(), lr=0.01)
    for step in range(steps):
        inputs = torch.arange(12.0).view(3, 4) * (rank + step)
        optimizer.zero_grad()
        if step == 1 and not options.get("static_graph"):
            with model.no_sync():
                model(inputs + 1).square().mean().backward()
        model(inputs).square().mean().backward()
        optimizer.step()
    return [value.detach() for value in [*model.parameters(), *model.buffers()]]


def data_parallel(group, rank, size):
    return [
        trained(group, rank, size, **options)
        for options in (
            {},
            {"gradient_as_bucket_view": True},
            {"find_unused_parameters": True},
            {"static_graph": True},
            {"broadcast_buffers": False, "bucket_cap_mb": 0.0001},
        )
    ]


def uneven_inputs(group, rank, size):
    """Ranks that have more to do than others: DDP's join."""
    torch.manual_seed(0)
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 2), process_group=group)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with model.join():
        for step in range(2 + rank):
            optimizer.zero_grad()
            model(torch.full((2, 4), float(step))).sum().backward()
            optimizer.step()
    return [parameter.detach() for parameter in model.parameters()]


def optimizers(group, rank, size):
    """The optimizer's state spread over ranks; models trained apart and averaged."""
    from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
    from torch.distributed.optim import ZeroRedundancyOptimizer

    def spread(parameters, lr):
        return ZeroRedundancyOptimizer(parameters, torch.optim.Adam, process_group=group, lr=lr)

    torch.manual_seed(rank)
    model = torch.nn.Linear(3, 2)
    model(torch.ones(1, 3)).sum().backward()  # what has no gradient is not averaged
    PeriodicModelAverager(period=1, warmup_steps=0, process_group=group).average_parameters(model.parameters())
    return trained(group, rank, size, spread), [parameter.detach() for parameter in model.parameters()]


def surface(job):
    """Objects, groups of some ranks, works, odd tensors, collectives with gradients: as over gloo."""
    compare(
        job, gathered_objects, scattered_objects, all_objects, subgroups, subset, works, odd_tensors, differentiated
    )


def training(job):
    """DDP with its options, uneven inputs, a sharded optimizer, averaged models: as over gloo."""
    compare(job, data_parallel, uneven_inputs, optimizers)


def more_than_gloo(job):
    """What gloo refuses and torch offers: to tensors, by lists, averages, bfloat16, bool; and what torch keeps for gloo."""
    job.init()
    size, rank = job.size, job.rank
    whole, part = torch.empty(size, 2), torch.empty(2)
    dist.all_gather_into_tensor(whole, torch.full((2,), float(rank)))
    assert whole[:, 1].tolist() == list(range(size))
    dist.reduce_scatter_tensor(part, torch.arange(2.0 * size), op=ReduceOp.AVG)
    assert part.tolist() == [2.0 * rank, 2.0 * rank + 1]
    for op in (ReduceOp.PRODUCT, ReduceOp.MIN, ReduceOp.MAX, ReduceOp.BXOR):
        tensor, wanted = torch.empty(3, dtype=torch.int32), torch.full((3,), rank + 3, dtype=torch.int32)
        gloo = {ReduceOp.PRODUCT: wanted**size, ReduceOp.BXOR: wanted * (size % 2)}.get(op, wanted)
        dist.reduce_scatter(tensor, [torch.full((3,), r + 3, dtype=torch.int32) for r in range(size)], op=op)
        assert torch.equal(tensor, gloo), (op, tensor)
    inputs = [torch.full((r + 1,), 10.0 * rank + r) for r in range(size)]
    outputs = [torch.empty(rank + 1) for _ in range(size)]
    dist.all_to_all(outputs, inputs)
    assert [output[-1].item() for output in outputs] == [10.0 * r + rank for r in range(size)]
    rows = torch.empty(2 * size if rank == 0 else 0)
    dist.all_to_all_single(rows, torch.full((2,), float(rank)), [2 if rank == 0 else 0] * size, [2] + [0] * (size - 1))
    assert rank or rows[::2].tolist() == list(range(size))
    if torch.__version__ < "2":  # later ones pass it on
        with expect(RuntimeError, "device_ids not supported", "thrum"):
            dist.barrier(device_ids=[0])
    with expect(Exception, "monitored_barrier", "only", "GLOO"):
        dist.monitored_barrier()
    dist.barrier()


def again(job):
    """A process that destroys all its groups and begins again, several times, with messages and groups each time."""
    for turn in range(3):
        job.init()
        tensor = torch.full((5,), float(turn))
        dist.all_reduce(tensor, group=dist.new_group())
        assert tensor[0] == job.size * turn
        if job.rank == 0:
            assert dist.recv(tensor) == 1 and tensor[0] == 10 + turn
        elif job.rank == 1:
            dist.send(torch.full((5,), 10.0 + turn), 0)
        dist.barrier()
        dist.destroy_process_group()
        assert not dist.is_initialized()
    with mock.patch.dict("os.environ", TORCH_DISTRIBUTED_DEBUG="DETAIL"):
        dist.set_debug_level_from_env()
        job.init()
        trained(None, job.rank, job.size, steps=2)
        dist.barrier()


CASES = [
    (surface, (4,), {}),
    (training, (2,), {}),
    (more_than_gloo, (3,), {}),
    (again, (2,), {}),
]
