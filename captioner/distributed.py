"""Exchange values between the processes (ranks) of a run; a single process has only its own."""

import os
from typing import TypeVar

import torch
from torch import Tensor, distributed

T = TypeVar("T")


def join() -> None:
    """Join the group of processes that torchrun started; do nothing in a single process."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not distributed.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        distributed.init_process_group()


def rank() -> int:
    """Return the number of this process; 0 writes files."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world() -> int:
    """Return the number of processes."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def gather(value: T) -> list[T]:
    """Return the values of all processes, in order of rank. All of them must call this."""
    if world() == 1:
        return [value]
    values: list[T] = [value] * world()
    distributed.all_gather_object(values, value)
    return values


def gather_rows(row_K: Tensor) -> Tensor:
    """Return the rows of all processes as (world, K), on their device. All must call this."""
    if world() == 1:
        return row_K[None]
    rows = [torch.empty_like(row_K) for _ in range(world())]
    distributed.all_gather(rows, row_K)
    return torch.stack(rows)
