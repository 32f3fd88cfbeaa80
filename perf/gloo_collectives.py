#!/usr/bin/env python3
"""Times gloo's collectives through torch.distributed, for perf/compare-fabric.

usage: RANK=R WORLD_SIZE=N MASTER_ADDR=HOST MASTER_PORT=PORT perf/gloo_collectives.py MILLISECONDS COLLECTIVE:BYTES ...

Rank 0 prints a row for each: collective,bytes,microseconds. The time is the median of one operation on the slowest rank,
float32, sum, in place, as thrum-perf takes it.
"""
import sys
import time

import torch
import torch.distributed as dist

CALLS = {
    "allreduce": dist.all_reduce,
    "broadcast": lambda tensor: dist.broadcast(tensor, 0),
    "reduce": lambda tensor: dist.reduce(tensor, 0),
}


def median(call, tensor, seconds):
    """Of as many operations as fit the time by the first rank's clock, so that all do the same number."""
    begin = time.perf_counter()
    for _ in range(3):
        call(tensor)
    number = torch.tensor([max(5, int(seconds / max((time.perf_counter() - begin) / 3, 1e-6)))])
    dist.broadcast(number, 0)
    times = []
    for _ in range(min(int(number), 20000)):
        begin = time.perf_counter()
        call(tensor)
        times.append(time.perf_counter() - begin)
    times.sort()
    return times[len(times) // 2]


def main():
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    for item in sys.argv[2:]:
        name, size = item.split(":")
        tensor = torch.zeros(int(size) // 4)
        slowest = torch.tensor([median(CALLS[name], tensor, float(sys.argv[1]) / 1000)])
        dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
        if dist.get_rank() == 0:
            print(f"{name},{size},{slowest.item() * 1e6:.1f}", flush=True)
    dist.destroy_process_group()


main()
