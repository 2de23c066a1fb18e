"""Batch norm whose statistics are those of the whole batch, of which each process has a part.

`torch.nn.SyncBatchNorm` runs on GPUs only, cannot be differentiated twice, and would have to replace modules. Here
`torch.nn.functional.batch_norm` and `torch.batch_norm` are replaced, for the time of a step: so any network, also one
whose modules call them themselves, has synchronised statistics in forward and backward passes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from neuralign.common.errors import UserError
from neuralign.training.distributed.processes import Part, Processes

ORIGINAL, ORIGINAL_OF_TORCH = functional.batch_norm, torch.batch_norm


def demand_replaceable(network: nn.Module, policy: str) -> None:
    """Raise UserError if a layer synchronises its statistics by itself, or is to be synchronised and cannot be.

    Args:
        network: with the layers.
        policy: the regime's `batch_norm`.
    """
    for name, module in network.named_modules():
        if policy == "synchronised" and isinstance(module, torch.jit.ScriptModule) and _has_batch_norm(module):
            raise UserError(
                f"the layer {name!r} is TorchScript with a batch norm, which cannot be synchronised; use the layers it "
                "was made from, or `batch_norm: per_process` in the regime"
            )
        if isinstance(module, nn.SyncBatchNorm):
            raise UserError(
                f"the layer {name!r} is a SyncBatchNorm, which has a synchronisation of its own; use BatchNorm layers: "
                "the regime's `batch_norm` says whether they are synchronised"
            )


@contextmanager
def synchronised(processes: Processes, part: Part) -> Iterator[list[Tensor]]:
    """A block in which batch norms in training mode use the mean and variance of the whole batch.

    All processes must call the same batch norms in the same order. Yields a list to which the running statistics are
    added that were updated in it; they are the same in all processes.
    """
    updated: list[Tensor] = []
    functional.batch_norm = replacement = partial(_batch_norm, processes, part, updated)
    # the same arguments in another order, and whether cuDNN may be used
    torch.batch_norm = lambda x, weight, bias, mean, variance, *settings: replacement(
        x, mean, variance, weight, bias, *settings[:-1]
    )
    try:
        yield updated
    finally:
        functional.batch_norm, torch.batch_norm = ORIGINAL, ORIGINAL_OF_TORCH


def _has_batch_norm(module: torch.jit.ScriptModule) -> bool:
    return hasattr(module, "forward") and "aten::batch_norm" in str(module.inlined_graph)


def _batch_norm(
    processes: Processes,
    part: Part,
    updated: list[Tensor],
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """As `torch.nn.functional.batch_norm`, with the statistics of the whole batch if `training`.

    Every example is taken to have as many values of each channel as the others.
    """
    if not training:
        cudnn = torch.backends.cudnn.enabled
        return ORIGINAL_OF_TORCH(input, weight, bias, running_mean, running_var, training, momentum, eps, cudnn)
    values = input.numel() / input.shape[1] / part.count * part.whole  # of a channel, in the whole batch
    if values <= 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {input.size()}")
    dims, shape = [0, *range(2, input.dim())], [1, -1] + [1] * (input.dim() - 2)
    inputs = input.to(torch.promote_types(input.dtype, torch.float32))
    mean = processes.mean(inputs.mean(dims), part)
    centred = inputs - mean.view(shape)
    variance = processes.mean(centred.square().mean(dims), part)
    scale = torch.rsqrt(variance + eps)
    outputs = centred * (scale if weight is None else scale * weight).view(shape)
    if bias is not None:
        outputs = outputs + bias.view(shape)
    with torch.no_grad():
        for running, new in ((running_mean, mean), (running_var, variance * (values / (values - 1)))):
            if running is not None:
                running.lerp_(new.to(running.dtype), momentum)
                updated.append(running)
    return outputs.to(input.dtype)
