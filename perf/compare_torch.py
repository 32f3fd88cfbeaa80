"""What perf/compare-torch runs on each rank: Thrum and gloo in turns, in the same processes; rank 0 prints Markdown.

usage: mpirun -n RANKS python3 compare_torch.py SECONDS
"""

import statistics
import sys
import time

import torch
import torch.distributed as dist

import thrum_torch

KIB = 1024
SIZES = [4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, 1024 * KIB, 4096 * KIB, 16384 * KIB, 65536 * KIB]


def slowest(seconds):
    """The time of the slowest rank."""
    tensor = torch.tensor([seconds], dtype=torch.float64)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return tensor.item()


def in_turns(calls, seconds):
    """Microseconds of each of the calls, median over batches; a batch takes 20 ms or one call."""
    times = {name: [] for name in calls}
    numbers = {}
    for name, call in calls.items():
        number, took = 1, 0.0
        while took < 0.005:  # also warms up
            number *= 2
            begun = time.perf_counter()
            for _ in range(number):
                call()
            took = slowest(time.perf_counter() - begun)
        numbers[name] = max(1, int(0.020 * number / took))
    until, going = time.perf_counter() + seconds, True
    while going:
        for name, call in calls.items():
            dist.barrier()
            begun = time.perf_counter()
            for _ in range(numbers[name]):
                call()
            times[name].append(slowest(time.perf_counter() - begun) / numbers[name])
        going = slowest(float(time.perf_counter() < until or len(times[name]) < 5)) > 0
    return {name: statistics.median(values) * 1e6 for name, values in times.items()}


def size_text(size):
    return f"{size // KIB} KiB" if size < KIB * KIB else f"{size // KIB // KIB} MiB"


def row(title, times):
    ratio = times["gloo"] / times["thrum"]
    print(f"| {title} | {times['gloo']:.4g} | {times['thrum']:.4g} | **{ratio:.2f}** |", flush=True)


def main():
    seconds = float(sys.argv[1])
    torch.set_num_threads(1)
    dist.init_process_group("thrum")
    gloo = dist.new_group(backend="gloo")
    groups = {"thrum": None, "gloo": gloo}
    first = dist.get_rank() == 0
    if first:
        print(f"\n## {dist.get_world_size()} ranks\n\n| | gloo | Thrum | gloo / Thrum |\n|---|--:|--:|--:|")
    for size in SIZES:
        tensor = torch.zeros(size // 4)
        times = in_turns({name: lambda g=group: dist.all_reduce(tensor, group=g) for name, group in groups.items()}, seconds)
        if first:
            row(f"allreduce {size_text(size)}", times)
    for title, width in (("DDP step, 27,000 weights", 128), ("DDP step, 1.1 million weights", 960), ("DDP step, 9.5 million weights", 3000)):
        inputs, calls = torch.randn(2, 64), {}
        for name, group in groups.items():
            layers = torch.nn.Sequential(
                torch.nn.Linear(64, width), torch.nn.ReLU(), torch.nn.Linear(width, width), torch.nn.ReLU(), torch.nn.Linear(width, 10)
            )
            model = torch.nn.parallel.DistributedDataParallel(layers, process_group=group)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

            def step(model=model, optimizer=optimizer):
                optimizer.zero_grad()
                model(inputs).square().mean().backward()
                optimizer.step()

            calls[name] = step
        times = in_turns(calls, seconds)
        if first:
            row(title, times)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
