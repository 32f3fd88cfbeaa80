"""Runs cases of the PyTorch backend, each with a number of ranks, and prints TAP. Called by torch-frontend.

usage: check.py

PyTorch is imported once, here; the ranks are forked from this process, meet through a file, and end as programs do.
"""

import faulthandler
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from datetime import timedelta

import torch
import torch.distributed as dist

import thrum_torch

CASE_SECONDS = 120  # a hang; the slowest machines take a few seconds


class Job:
    """What a rank knows of its case."""

    def __init__(self, rank, size, folder):
        self.rank, self.size, self.folder = rank, size, folder
        self.ends_as_program = False
        self.inits = 0

    def init(self, timeout=60.0, backend="thrum"):
        self.inits += 1
        store = dist.FileStore(os.path.join(self.folder, f"store{self.inits}"), self.size)
        dist.init_process_group(
            backend, store=store, rank=self.rank, world_size=self.size, timeout=timedelta(seconds=timeout)
        )
        self.store = dist.PrefixStore("test", store)
        return dist.distributed_c10d._get_default_group()

    def tell(self, key):
        """Says to the other ranks, by the store, that this one has come so far."""
        self.store.set(key, "1")

    def await_told(self, key):
        self.store.wait([key], timedelta(seconds=60))


def expect(kind, *texts):
    """Context: the body raises `kind`, and its message has all texts."""
    return _Expected(kind, texts)


class _Expected:
    def __init__(self, kind, texts):
        self.kind, self.texts = kind, texts

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if error is None:
            raise AssertionError(f"nothing was raised, where {self.kind.__name__} with {self.texts} is due")
        if not isinstance(error, self.kind):
            return False
        self.message = str(error)
        for text in self.texts:
            if text not in self.message:
                raise AssertionError(f"no {text!r} in {self.message!r}")
        return True


def run_rank(function, job):
    """In the child. What it says goes to its log."""
    log = os.open(os.path.join(job.folder, f"log.{job.rank}"), os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    faulthandler.enable()  # says where a rank hangs
    try:
        function(job)
    except BaseException as error:
        traceback.print_exc()
        sys.last_value = error  # as the interpreter does for an error that ends a program
        end(job, 1)
    if dist.is_initialized() and not job.ends_as_program:
        dist.destroy_process_group()
    end(job, 0)


def end(job, status):
    """Taking the interpreter apart takes seconds, so only the cases that are about it do."""
    if job.ends_as_program:
        raise SystemExit(status)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def run_case(function, size, expected):
    """True if every rank ended with what `expected` says: 0, or for ranks in it another status."""
    folder = tempfile.mkdtemp()
    children, statuses, deadline = {}, {}, time.monotonic() + CASE_SECONDS
    for rank in range(size):
        pid = os.fork()
        if pid == 0:
            run_rank(function, Job(rank, size, folder))
        children[pid] = rank
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            statuses[children.pop(pid)] = os.waitstatus_to_exitcode(status)
        elif time.monotonic() > deadline:
            print(f"# {function.__name__}: {len(children)} ranks have not ended in {CASE_SECONDS} s")
            for pid in children:
                os.kill(pid, signal.SIGABRT)
            deadline += CASE_SECONDS
        else:
            time.sleep(0.002)
    wrong = [rank for rank in range(size) if statuses[rank] != expected.get(rank, 0)]
    for rank in wrong:
        print(f"# rank {rank} ended with {statuses[rank]}, not {expected.get(rank, 0)}")
    for rank in range(size) if wrong else ():
        with open(os.path.join(folder, f"log.{rank}")) as log:
            for line in log:
                print(f"# [{rank}] {line[:300].rstrip()}")
    shutil.rmtree(folder)
    return not wrong


def run(cases):
    """cases: (function, numbers of ranks, expected statuses). Exit status."""
    failed = number = 0
    for function, sizes, expected in cases:
        for size in sizes:
            number += 1
            title = f"{size} ranks: " + function.__doc__.splitlines()[0].rstrip(".")
            if getattr(function, "missing", None):
                print(f"ok {number} - {title} # SKIP {function.missing}", flush=True)
                continue
            begun = time.monotonic()
            good = run_case(function, size, expected)
            failed += not good
            spent = time.monotonic() - begun
            print(f"{'ok' if good else 'not ok'} {number} - {title} ({spent:.1f} s)", flush=True)
    return failed


def main():
    import anysource
    import compared
    import faults
    import layouts
    import operations

    torch.set_num_threads(1)
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    cases = [case for case in operations.CASES + layouts.CASES + anysource.CASES + compared.CASES + faults.CASES if wanted in case[0].__name__]
    failed = run(cases)
    raise SystemExit(failed != 0)


if __name__ == "__main__":
    sys.modules["check"] = sys.modules["__main__"]
    main()
