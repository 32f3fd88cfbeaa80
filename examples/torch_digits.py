"""Data-parallel training in PyTorch: a classifier of handwritten digits, by DistributedDataParallel over Thrum or gloo.

    torchrun --nproc_per_node 2 torch_digits.py [--backend thrum|gloo] [--epochs N] [--batch N] [--data FILE]
    mpirun -n 2 python3 torch_digits.py

Debian 12's torchrun fails unless it is given --redirects 9:3 --tee 9:3, too. With Thrum only: PYTHONPATH has the directory of thrum_torch (docs/torch.md). The printed losses are the same whichever
backend sums the gradients: to the last digit with two ranks, where a sum has one order.
"""

import argparse
import gzip
import os

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def load(path):
    """Images of 64 pixels from 0 to 1, and what they show."""
    with gzip.open(path, "rt") as file:
        rows = torch.tensor([[float(number) for number in line.split(",")] for line in file])
    return rows[:, :64] / 16, rows[:, 64].long()


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", choices=["thrum", "gloo"], default="thrum")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=32, help="images of a minibatch, over all ranks")
    parser.add_argument("--data", default=os.path.join(here, "data", "digits.csv.gz"))
    options = parser.parse_args()

    import thrum_torch  # the backend; and init_process_group finds the ranks of mpirun with it, also for gloo

    torch.set_num_threads(1)
    dist.init_process_group(options.backend)
    rank, size = dist.get_rank(), dist.get_world_size()
    images, digits = load(options.data)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(2026))
    held_out = order[: len(order) // 5]
    training = order[len(order) // 5 :]

    torch.manual_seed(2026)  # the same weights on every rank
    model = DistributedDataParallel(nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    shuffles = torch.Generator().manual_seed(7)
    for epoch in range(1, options.epochs + 1):
        total = torch.zeros(2)
        for batch in training[torch.randperm(len(training), generator=shuffles)].split(options.batch):
            mine = batch[rank::size]
            if len(batch) < options.batch:
                continue  # all ranks have as many images
            loss = nn.functional.cross_entropy(model(images[mine]), digits[mine])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += torch.tensor([loss.item(), 1.0])
        dist.all_reduce(total)
        with torch.no_grad():
            accuracy = (model(images[held_out]).argmax(1) == digits[held_out]).float().mean().item()
        if rank == 0:
            print(f"epoch {epoch:2}  training loss {total[0] / total[1]:.6f}  test accuracy {accuracy:.4f}", flush=True)

    weights = torch.cat([weight.detach().flatten() for weight in model.parameters()])
    everybody = [torch.empty_like(weights) for _ in range(size)]
    dist.all_gather(everybody, weights)
    identical = all(torch.equal(weights, other) for other in everybody)
    if rank == 0:
        print(f"final: accuracy={accuracy:.3f} ranks={size} weights={'identical' if identical else 'different'}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
