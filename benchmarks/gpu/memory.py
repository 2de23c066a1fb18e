"""Memory of the GPU, in MiB; zeros on a CPU."""

import gc

import torch

MIB = 2**20


def release(device: str) -> None:
    """Give back what nobody uses any more, and measure peaks from here on."""
    gc.collect()  # trainings that have ended hold their graphs in cycles of references
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak(device: str) -> tuple[float, float]:
    """(memory of tensors, memory that PyTorch reserved for them), the most since `release`, of this process."""
    if device == "cpu":
        return 0.0, 0.0
    return torch.cuda.max_memory_allocated() / MIB, torch.cuda.max_memory_reserved() / MIB


def used(device: str) -> float:
    """Memory in use on the whole card, by all processes."""
    if device == "cpu":
        return 0.0
    free, total = torch.cuda.mem_get_info()
    return (total - free) / MIB
