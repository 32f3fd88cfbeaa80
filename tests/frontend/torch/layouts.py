"""Tensors that are not rows one after the other in memory. Each function is a case that all ranks run. Used by check.py."""

import time

import torch
import torch.distributed as dist
from torch.distributed import ReduceOp

from check import expect
from operations import data, folded, same


def spread_out(tensor):
    """The same numbers at every second place of memory that nobody else may touch, and a check of that."""
    memory = torch.full((2 * tensor.numel(),), 99).to(tensor.dtype)
    places = memory[::2].view(tensor.shape)
    places.copy_(tensor)
    spread_out.gaps.append(memory[1::2])
    return places


def strided(job):
    """Tensors that lie anyhow in memory, read and written, in every call; and other ranks' that lie otherwise."""
    pg = job.init()
    size, rank = job.size, job.rank
    spread_out.gaps = []

    def mine(r, salt=0):
        return data(r, 12, torch.float32, salt)

    def lie(tensor):  # contiguous at rank 0
        return spread_out(tensor) if rank else tensor.clone()

    def room(count=12):
        return lie(torch.zeros(count))

    total = folded(ReduceOp.SUM, [mine(r) for r in range(size)])
    whole = torch.cat([mine(r) for r in range(size)])
    by_block = [folded(ReduceOp.SUM, [mine(r, block) for r in range(size)]) for block in range(size)]
    tensor = lie(mine(rank))
    work = dist.all_reduce(tensor, async_op=True)
    assert work.wait() and work.result()[0].data_ptr() == tensor.data_ptr()
    same(tensor, total)
    with torch.inference_mode():  # which the thread that ends a call is not in
        for _ in range(20):
            tensor = lie(mine(rank))
            work = dist.all_reduce(tensor, async_op=True)
            time.sleep(0.002)
            work.wait()
            same(tensor, total)
    tensors = [lie(mine(rank)), mine(rank)]
    pg.allreduce(tensors).wait()
    for tensor in tensors:
        same(tensor, 2 * total)
    tensors = [lie(mine(rank)), lie(mine(rank))]
    dist.all_reduce_coalesced(tensors)
    for tensor in tensors:
        same(tensor, total)
    for root in range(size):
        tensor = lie(mine(rank))
        dist.broadcast(tensor, root)
        same(tensor, mine(root))
        tensor = lie(mine(rank))
        dist.reduce(tensor, root)
        same(tensor, total if rank == root else mine(rank))
        outputs = [room() for _ in range(size)] if rank == root else None
        dist.gather(lie(mine(rank)), outputs, root)
        for r in range(size if outputs else 0):
            same(outputs[r], mine(r))
        inputs = [lie(mine(root, r)) for r in range(size)] if rank == root else None
        output = room()
        dist.scatter(output, inputs, root)
        same(output, mine(root, rank))
    outputs = [room() for _ in range(size)]
    dist.all_gather(outputs, lie(mine(rank)))
    same(torch.cat(outputs), whole)
    output = room(12 * size)
    dist._all_gather_base(output, lie(mine(rank)))
    same(output, whole)
    lists = [[room(), room()] for _ in range(size)]
    dist.all_gather_coalesced(lists, [lie(mine(rank)), lie(mine(rank, 1))])
    for r in range(size):
        same(lists[r][1], mine(r, 1))
    output = room()
    dist.reduce_scatter(output, [lie(mine(rank, block)) for block in range(size)])
    same(output, by_block[rank])
    output = room()
    dist._reduce_scatter_base(output, lie(torch.cat([mine(rank, block) for block in range(size)])))
    same(output, by_block[rank])
    outputs = [room() for _ in range(size)]
    dist.all_to_all(outputs, [lie(mine(rank, r)) for r in range(size)])
    same(torch.cat(outputs), torch.cat([mine(r, rank) for r in range(size)]))
    output = room(12 * size)
    dist.all_to_all_single(output, lie(torch.cat([mine(rank, r) for r in range(size)])))
    same(output, torch.cat([mine(r, rank) for r in range(size)]))
    if rank < 2:
        tensor = room()
        dist.send(lie(mine(0)), 1) if rank == 0 else dist.recv(tensor, 0)
        assert rank == 0 or torch.equal(tensor, mine(0))
    # what the caller means counts, not the order in memory
    matrix = torch.arange(12.0).view(3, 4)
    tensor = matrix.clone() if rank else matrix.t().contiguous().t()
    dist.broadcast(tensor, 0)
    same(tensor, matrix)
    image = torch.arange(24.0).view(1, 2, 3, 4)
    outputs = [torch.empty(1, 2, 3, 4) for _ in range(size)]
    dist.all_gather(outputs, image.contiguous(memory_format=torch.channels_last) if rank else image)
    for output in outputs:
        same(output, image)
    same_number = [torch.empty(5) for _ in range(size)]
    dist.all_gather(same_number, torch.tensor([3.0]).expand(5))
    assert torch.cat(same_number).eq(3).all()
    number = torch.tensor([1 + 2j, 3 - 1j])
    outputs = [torch.empty_like(number) for _ in range(size)]
    pg.allgather([outputs], [number.conj()]).wait()
    same(outputs[-1], torch.tensor([1 - 2j, 3 + 1j]))
    parameter = torch.ones(4, 4, requires_grad=True)
    pg.allreduce([parameter.detach()[:, 1]]).wait()
    assert parameter[0, 1] == size and parameter.sum() == 12 + 4 * size and parameter.is_leaf
    # nobody waits, and works behind have ended
    tensors = [spread_out(torch.ones(50)) for _ in range(100)]
    for tensor in tensors:
        dist.all_reduce(tensor, async_op=True)
    deadline = time.monotonic() + 60
    while not all(tensor[-1] == size for tensor in tensors):
        assert time.monotonic() < deadline, "no progress without a call"
        time.sleep(0.001)
    for gap in spread_out.gaps:
        assert gap.eq(99).all()


def sparse(job):
    """all_reduce of sparse tensors: overlapping, empty, unequal, dense inside; between other calls; not of one shape."""
    job.init()
    size, rank = job.size, job.rank

    def mine(r, kind):
        if kind == "empty":
            return torch.sparse_coo_tensor(torch.empty(1, 0, dtype=torch.int64), torch.empty(0), (5,))
        if kind == "some":
            number = 300 * r  # none at rank 0
            indices = torch.stack([torch.arange(number) % 7, torch.arange(number) % 11])
            return torch.sparse_coo_tensor(indices, data(r, number, torch.float64), (7, 11))
        if kind == "rows":
            return torch.sparse_coo_tensor(torch.tensor([[r, 2, 2]]), torch.full((3, 4), r + 1.0), (size + 2, 4))
        return torch.sparse_coo_tensor(torch.tensor([[r, 3], [1, 1]]), torch.tensor([r + 1, 2]), (size + 3, 2))

    for kind in ("empty", "some", "rows", "integers") * 2:
        tensor, after = mine(rank, kind), torch.ones(10)
        work = dist.all_reduce(tensor, async_op=True)
        later = dist.all_reduce(after, async_op=True)
        work.wait()
        assert tensor.is_sparse and tensor.is_coalesced() and work.result()[0] is tensor
        same(tensor.to_dense(), sum(mine(r, kind).to_dense() for r in range(size)))
        later.wait()
        assert after[3] == size
    works = []
    for i in range(150):  # with more behind than fit in flight
        works.append(dist.all_reduce(torch.ones(4), async_op=True))
        works.append(dist.all_reduce(mine(rank, "rows"), async_op=True))
    for work in works:
        work.wait()
    same(works[-1].result()[0].to_dense(), sum(mine(r, "rows").to_dense() for r in range(size)))
    with expect(ValueError, "ranks disagree: rank 1 has 1 sparse dimensions of sizes (6)", "of sizes (5)"):
        dist.all_reduce(torch.sparse_coo_tensor(torch.tensor([[0]]), torch.ones(1), (6 if rank == 1 else 5,)))
    after = torch.ones(10)
    dist.all_reduce(after)
    assert after[3] == size
    gloo = dist.new_group(backend="gloo")
    weights = []
    # gloo first: PyTorch 2 hangs if its group is destroyed while a thread of it is still dropping the last sparse tensor
    for group in (gloo, None):
        torch.manual_seed(3)
        model = torch.nn.parallel.DistributedDataParallel(
            torch.nn.Sequential(torch.nn.Embedding(30, 4, sparse=True), torch.nn.Linear(4, 2)), process_group=group
        )
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for step in range(4):
            optimizer.zero_grad()
            model(torch.tensor([step, rank, 5, 5 + rank])).square().sum().backward()
            optimizer.step()
        weights.append([parameter.detach().clone() for parameter in model.parameters()])
    for wanted, got in zip(*weights):
        assert torch.allclose(got, wanted, rtol=1e-5, atol=1e-7)


CASES = [
    (strided, (2, 3), {}),
    (sparse, (2, 3), {}),
]
