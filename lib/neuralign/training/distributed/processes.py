"""The processes that train one model together, the part of a batch that each computes, and what they exchange.

They are started as `torchrun` starts them: the environment variables RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and
MASTER_PORT say which process this is. A single process is `ALONE`, and exchanges nothing.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, distributed

from neuralign.common.errors import UserError

RENDEZVOUS = "NEURALIGN_RENDEZVOUS"  # the URL at which processes meet that were not started by torchrun


@dataclass(frozen=True)
class Part:
    """The part of a batch that one process computes."""

    examples: slice  # in the batch
    count: int  # examples in the part
    whole: int  # examples in the batch
    share: float  # weight of the part's mean in the mean over the batch; those of all processes add up to 1

    @property
    def weight(self) -> float:
        """How many examples of the batch the part stands for; those of all processes add up to the batch."""
        return self.share * self.whole


@dataclass(frozen=True)
class Processes:
    """The processes that train one model, seen from one of them."""

    rank: int = 0  # the number of this process, from 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes checkpoints, results and logs for all."""
        return self.rank == 0

    def part(self, examples: int) -> Part:
        """The part of a batch of so many examples that this process computes.

        Parts follow each other in the order of the batch and differ by at most one example in size. A batch of fewer
        examples than processes is computed as a whole by each of them, so that no process is left without an example.
        """
        if examples < self.count:
            return Part(slice(examples), examples, examples, 1 / self.count)
        start, stop = (examples * rank // self.count for rank in (self.rank, self.rank + 1))
        return Part(slice(start, stop), stop - start, examples, (stop - start) / examples)

    def smallest_part(self, examples: int) -> int:
        """How many examples the smallest part of such a batch has."""
        return examples if examples < self.count else examples // self.count

    def sum_(self, tensor: Tensor) -> None:
        """Set `tensor` to its sum over all processes, in place. Without effect in a single process."""
        if self.count > 1:
            distributed.all_reduce(tensor)

    def mean_(self, tensor: Tensor, part: Part) -> None:
        """Set `tensor`, a mean over the part of each process, to the mean over the batch, in place."""
        if self.count > 1:
            self.sum_(tensor.mul_(part.share))

    def mean(self, tensor: Tensor, part: Part) -> Tensor:
        """The mean over a batch, from the mean over the part of each process.

        It can be differentiated, also twice, if every process differentiates the mean of a loss over its own part. The
        gradients are those of its part's loss: they become those of the batch's loss by `mean_`.
        """
        return cast(Tensor, _WeightedMean.apply(tensor, part.share))

    def copy_first_(self, tensors: Sequence[Tensor]) -> None:
        """Set tensors to those of the first process, in place. They must have the same shapes and types in all."""
        if self.count == 1 or not tensors:
            return
        sizes = [t.numel() * t.element_size() for t in tensors]
        joint = torch.cat([t.detach().reshape(-1).view(torch.uint8) for t in tensors])  # any types; their bits
        distributed.broadcast(joint, 0)
        for tensor, piece in zip(tensors, joint.split(sizes), strict=True):
            tensor.detach().copy_(piece.clone().view(tensor.dtype).view(tensor.shape))

    def of_first(self, value: Any) -> Any:
        """The value that the first process passes; of plain types."""
        if self.count > 1:
            values = [value]
            distributed.broadcast_object_list(values, 0)
            value = values[0]
        return value


ALONE = Processes()
WHOLE = Part(slice(None), 1, 1, 1.0)  # of any batch


class _WeightedMean(torch.autograd.Function):
    """The mean over all processes, weighted by the share of each.

    Let x_r be the tensor of process r, of share w_r, and y = sum_r w_r x_r. The loss of the batch is
    L = sum_r w_r L_r. Process r works with gradients of L_r, which times w_r are its terms of those of L. So its
    gradient by x_r is dL/dx_r / w_r = dL/dy = sum_q w_q dL_q/dy: the same weighted mean, of the gradients by y.
    """

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, share: float) -> Tensor:
        ctx.share = share
        total = tensor * share
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return cast(Tensor, _WeightedMean.apply(gradients[0], ctx.share)), None


@contextmanager
def joined(device: torch.device, count: int | None = None) -> Iterator[Processes]:
    """A block in which this process trains together with those that were started with it; `ALONE` if there are none.

    Args:
        device: on which this process computes: a GPU, and the processes exchange by NCCL, or the CPU, by Gloo. "cuda"
            without a number is the GPU of this process's number on its machine, LOCAL_RANK.
        count: of the processes. None: as many as the environment says.

    Raises UserError if the environment does not name as many. If a process fails, whoever started it has to end the
    others, which wait for it; `torchrun` does so, and so do jobs of the workflow.
    """
    started = int(os.environ.get("WORLD_SIZE", 1)) if count != 1 else 1
    if count not in (None, started):
        raise UserError(
            f"WORLD_SIZE: {count} processes are asked for, and the environment names {started}; start them by "
            f"`torchrun --nproc-per-node {count}`"
        )
    if started == 1:
        yield ALONE
        return
    gpu = None
    if device.type == "cuda":
        local = device.index if device.index is not None else int(os.environ.get("LOCAL_RANK", 0))
        gpu = torch.device("cuda", local % torch.cuda.device_count())  # a process may see its own GPU only
        torch.cuda.set_device(gpu)
    rank = int(os.environ["RANK"])
    place = os.environ.get(RENDEZVOUS, "env://")
    distributed.init_process_group(
        "nccl" if gpu else "gloo", init_method=place, world_size=started, rank=rank, device_id=gpu
    )
    yield Processes(rank, started)
    distributed.barrier()  # Gloo fails in a process that is still connecting when another one leaves
    distributed.destroy_process_group()  # not after an error: it could wait for the others
