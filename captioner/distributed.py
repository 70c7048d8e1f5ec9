"""What the processes (ranks) of one run tell each other. Alone, a process hears only itself."""

import os
from typing import TypeVar

import torch
from torch import Tensor, distributed

T = TypeVar("T")


def join() -> None:
    """Makes the processes that torchrun started one group. Alone, nothing."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not distributed.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        distributed.init_process_group()


def rank() -> int:
    """Which of the processes this is; 0 writes files."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world() -> int:
    """How many there are."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def gather(value: T) -> list[T]:
    """Every process's value, in order of rank. All of them must call this."""
    if world() == 1:
        return [value]
    parts: list[T] = [value] * world()
    distributed.all_gather_object(parts, value)
    return parts


def gather_rows(row_K: Tensor) -> Tensor:
    """Every process's row of numbers as (world, K), on its own device. All must call this."""
    if world() == 1:
        return row_K[None]
    rows = [torch.empty_like(row_K) for _ in range(world())]
    distributed.all_gather(rows, row_K)
    return torch.stack(rows)
