"""Records a run of a network: follows the axes of every tensor, from the parameters and the input to the outputs.

The recorder sees the operations of ATen, so it makes no difference which functions, methods and modules called them. A
tensor is identified by its location in memory: another tensor object at the same location has the same axes.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from neuralign.symmetry.tracing.axes import Axis, freeze, ordered_axis, unify
from neuralign.symmetry.tracing.call import Axes, Call, Rule, Step, TensorRecord, UnsupportedCall, tensors_in
from neuralign.symmetry.tracing.execution import (
    DeterministicMode,
    Operation,
    bind,
    is_random,
    memory_of,
    operation_name,
    written_tensors,
)

Location = tuple[Any, ...]
BUFFERS = 1e6  # added to `first_seen` of axes of buffers, so that groups are named after parameters
MASK_TYPES = (torch.bool, torch.uint8)
COPIES = {"clone", "_to_copy", "detach", "alias"}
SUMS = {"add", "sub", "mul", "div", "rsub"}  # operations that may join two streams, as a residual connection does
# operations that return one value everywhere
CONSTANTS = {
    f"{new}{kind}{like}" for kind in ("zeros", "ones", "full") for new in ("new_", "") for like in ("_like", "")
}


def location_of(tensor: Tensor) -> Location:
    """Where a tensor lies in memory, with shape, strides and dtype: a complex tensor may lie where a real one does."""
    return memory_of(tensor), tensor.dtype, tensor.storage_offset(), tuple(tensor.shape), tensor.stride()


class Recorder(DeterministicMode):
    """Follows axes through the operations of a run by `rules`; an operation without a rule freezes its operands.

    It also notes the decisions of a run: where Python reads a value that another input, or another random draw, would
    change.

    Args:
        network: the network that is run, with the tensors that it has during the run.
        rules: by the name of the operation.
        elementwise: the rule of all operations that ATen tags as elementwise and `rules` does not have.
        answers: {number of a decision: the bool that Python reads there in place of the actual one}.
    """

    def __init__(
        self,
        network: nn.Module,
        rules: Mapping[str, Rule],
        elementwise: Rule,
        answers: Mapping[int, bool] | None = None,
    ):
        super().__init__()
        self.network, self.rules, self.elementwise = network, rules, elementwise
        # what is known after the run
        self.state: dict[str, Axes] = {}  # axes of the network's tensors that were used, by name
        self.steps: list[Step] = []
        self.reached: set[str] = set()  # names of the network's tensors that some operation used
        self.used_parameters: set[str] = set()  # those of them that are parameters
        self.activations = 0  # how many numbers the results of all operations have
        self.learned: set[str] = set()  # names of parameters and running statistics
        self.draws: list[list[str]] = []  # for every random operation, the layers that were running, outer to inner
        self.arguments_digest = hashlib.sha256()  # of all operations with sizes and numbers among their arguments
        self.result_digests: tuple[str, ...] = ()  # of the outputs, and of tensors kept for the next run
        # decisions
        self.decisions: list[str] = []  # for every decision, the running layer in words
        self.answers = dict(answers or {})
        # number of a decision that reads a bool which depends on the input alone -> what Python read there
        self.bool_answers: dict[int, bool] = {}
        self.operation_failed = False  # whether an operation raised an error
        self.raised = False  # whether the network's own code raised an error
        self.in_operation = False  # whether an operation is running: what torch reads then is no decision
        # bookkeeping
        self.records: dict[Location, TensorRecord] = {}
        self.writes: dict[int, str] = {}  # memory -> digest of the operation that last wrote to it
        # memory of a constant -> for every reader, the axes that it got and the axes of the tensor that it read
        self.constants: dict[int, list[tuple[Axes, Axes]]] = {}
        self.axis_numbers = count()
        # memory -> {name: parameter} of those that nothing has overwritten yet
        self.untouched: dict[int, dict[str, Tensor]] = {}
        self.overwritten: dict[str, tuple[Tensor, Tensor]] = {}  # name -> parameter, copy of it from before
        self.running: list[tuple[str, bool]] = [("", False)]  # modules, outer to inner: name, whether without children
        self.calls: dict[str, int] = {}  # operation -> calls so far, less one
        self.step_names: dict[str, int] = {}  # name of a step -> uses so far, less one
        self.names: dict[Location, list[str]] = {}  # of parameters and persistent buffers
        self.all_names: dict[Location, list[str]] = {}  # of these and of other buffers
        self._name_tensors()

    def _name_tensors(self) -> None:
        """Fill `names`, `all_names` and `learned`."""
        network, stored = self.network, _stored_buffers(self.network)
        parameters = list(network.named_parameters(remove_duplicate=False))
        statistics = {location_of(b) for n, b in network.named_buffers() if n.rpartition(".")[2].startswith("running")}
        for name, tensor in [*parameters, *network.named_buffers(remove_duplicate=False)]:
            if isinstance(tensor, nn.Parameter) or location_of(tensor) in statistics:
                self.learned.add(name)
            if name in self.learned or name in stored:
                self.names.setdefault(location_of(tensor), []).append(name)
        for name, parameter in network.named_parameters():
            self.untouched.setdefault(memory_of(parameter), {})[name] = parameter.detach()
        for name, tensor in [*parameters, *network.named_buffers()]:
            self.all_names.setdefault(location_of(tensor), []).append(name)

    def add_input(self, tensor: Tensor, axes: Axes) -> None:
        """Record a tensor of the network's inputs; one that is there twice keeps its first axes."""
        record = TensorRecord(
            axes=axes,
            tensor=tensor,
            strides=tensor.stride(),
            digest=f"input {len(self.records)}",
            depends_on_input=True,
            depends_on_network=False,
            may_carry_groups=True,
        )
        self.records.setdefault(location_of(tensor), record)

    def finish(self, outputs: Iterable[Tensor], state: Mapping[str, Tensor]) -> None:
        """Freeze the axes of the network's outputs. `state`: {name: tensor} that the network has after the run."""
        self._unify_with_next_run(state)
        outputs = list(outputs)
        for tensor in outputs:
            for axis in self.record_of(tensor).axes:
                freeze(axis, "it is the network's output")
        kept = [tensor for tensor in state.values() if location_of(tensor) in self.records]
        self.result_digests = tuple(_digest(self._provenance(tensor)) for tensor in (*outputs, *kept))
        self.release()

    def release(self) -> None:
        """Give up all tensors of the run, which need several times the memory of the network. What is known stays."""
        results = {memory_of(r.tensor): r.tensor for r in self.records.values() if r.step is not None}
        for tensor in (*self.network.parameters(), *self.network.buffers()):
            results.pop(memory_of(tensor), None)  # of which a view, such as a transpose, is no result of its own
        self.activations = sum(t.untyped_storage().nbytes() // t.element_size() for t in results.values())
        self.used_parameters = self.reached & {name for name, _ in self.network.named_parameters()}
        self.network = nn.Module()
        self.untouched.clear()
        self.records.clear()
        self.constants.clear()

    def run(self, func: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.in_operation = True
        try:
            return self._record(func, args, kwargs)
        finally:
            self.in_operation = False

    def _record(self, func: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operation and record the tensors of its result, which is returned."""
        name, arguments = operation_name(func), bind(func, args, kwargs)
        written = written_tensors(func, arguments)
        for tensor in written:
            self._end_constant(tensor)
            self.keep_parameters(tensor)
        operands = {id(t): self._operand(t) for t in tensors_in(arguments.values())}
        digest = _digest(name, [self._provenance(a) for a in arguments.values()])
        self.writes |= {memory_of(tensor): digest for tensor in written}
        try:
            out = super().run(func, args, kwargs)
        except Exception:
            self.operation_failed = True
            raise
        call = Call(name, arguments, tuple(tensors_in([out])), operands, f"aten::{name}{self._running_layer()}")
        rule = self.rules.get(name, self.elementwise if torch.Tag.pointwise in func.tags else None)
        axes = self._apply_rule(rule, call)
        may_carry_groups = any(record.may_carry_groups for record in operands.values())
        depends_on_network = any(record.depends_on_network for record in operands.values())
        # a random result is treated as one that depends on the input: it differs from run to run
        depends_on_input = torch.Tag.nondeterministic_seeded in func.tags
        depends_on_input |= any(record.depends_on_input for record in operands.values())
        dynamic_shape = depends_on_input and _has_dynamic_shape(func, arguments)
        dynamic_shape |= any(record.dynamic_shape for record in operands.values())
        if torch.Tag.data_dependent_output in func.tags and depends_on_input:
            self.note_decision()
            if isinstance(out, bool) and not depends_on_network:
                out = self._answer(out)
        if is_random(func, args, kwargs):
            self.draws.append([layer for layer, _ in self.running])
        self.calls[name] = self.calls.get(name, -1) + 1
        self.arguments_digest.update(repr((name, [_without_values(a) for a in arguments.values()])).encode())
        expanded = _expanded_dims(call)
        step = self._add_step(call, axes, depends_on_input, expanded) if may_carry_groups else None
        for i, (tensor, tensor_axes) in enumerate(zip(call.outputs, axes, strict=True)):
            self.records[location_of(tensor)] = TensorRecord(
                axes=tensor_axes,
                tensor=tensor,
                strides=tensor.stride(),
                digest=f"{digest}:{i}",
                depends_on_input=depends_on_input,
                depends_on_network=depends_on_network,
                may_carry_groups=may_carry_groups,
                step=step,
                expanded=expanded,
                dynamic_shape=dynamic_shape,
            )
            if name in CONSTANTS:
                self.constants[memory_of(tensor)] = []
        return out

    def _provenance(self, argument: Any) -> Any:
        """An argument of an operation, with the digests of its tensors in place of their values."""
        if isinstance(argument, Tensor):
            written = self.writes.get(memory_of(argument))
            return self.record_of(argument).digest, written, location_of(argument)[1:]
        return list(map(self._provenance, argument)) if isinstance(argument, list | tuple) else str(argument)

    def record_of(self, tensor: Tensor) -> TensorRecord:
        """What is known of a tensor; one that no operation computed is a constant or a tensor of the network."""
        location = location_of(tensor)
        if location not in self.records:
            self.reached |= set(self.all_names.get(location, ()))
            names = self.names.get(location, [])
            learned = any(name in self.learned for name in names)
            if names:
                offset = 0.0 if learned else BUFFERS
                axes = tuple(Axis(n, _label(names[0]), offset + next(self.axis_numbers)) for n in tensor.shape)
                self.state |= dict.fromkeys(names, axes)
            else:
                axes = tuple(map(ordered_axis, tensor.shape))
            self.records[location] = TensorRecord(
                axes=axes,
                tensor=tensor,
                strides=tensor.stride(),
                digest=repr(names),
                depends_on_input=False,
                depends_on_network=bool(names),
                may_carry_groups=learned,
            )
        return self.records[location]

    def _operand(self, tensor: Tensor) -> TensorRecord:
        """The record of an operand; for a constant (one value everywhere), a record with new axes.

        Any permutation of a constant is the identity, so its readers need not permute it alike. If the constant is
        written to later, `_end_constant` unifies the new axes with its own.
        """
        record = self.record_of(tensor)
        if memory_of(tensor) not in self.constants:
            return record
        axes = tuple(Axis(axis.size) for axis in record.axes)
        self.constants[memory_of(tensor)].append((axes, record.axes))
        return replace(record, axes=axes)

    def _end_constant(self, tensor: Tensor) -> None:
        """Unify the axes that readers of a constant got with its own, because an operation writes to its memory."""
        for reader_axes, tensor_axes in self.constants.pop(memory_of(tensor), []):
            for reader_axis, axis in zip(reader_axes, tensor_axes, strict=True):
                unify(reader_axis, axis, "it is written to")

    def keep_parameters(self, tensor: Tensor) -> None:
        """Copy the parameters in the memory of a tensor that may be overwritten, for `restore_parameters`."""
        with torch._C._DisableTorchDispatch():  # the copies are no operations of the network
            for name, parameter in self.untouched.pop(memory_of(tensor), {}).items():
                self.overwritten[name] = parameter, parameter.clone()

    def restore_parameters(self) -> set[str]:
        """Give the parameters that the run overwrote their old values. Returns the names of those that had changed."""
        changed = {
            name for name, (after, before) in self.overwritten.items() if after.is_meta or not are_equal(before, after)
        }
        for parameter, before in self.overwritten.values():
            parameter.copy_(before)
        self.overwritten.clear()
        return changed

    def note_decision(self) -> None:
        """Note a decision: Python reads a value here that another input, or another random draw, would change."""
        self.decisions.append(self._running_layer())

    def _answer(self, value: bool) -> bool:
        """What Python is to read at the latest decision, a bool: the answer from `answers`, else the actual `value`."""
        number = len(self.decisions) - 1
        self.bool_answers[number] = self.answers.get(number, value)
        return self.bool_answers[number]

    def note_read(self, tensor: Tensor, *, shape: bool) -> None:
        """Note a decision if Python reads values of a tensor, or its `shape`, that depend on the input."""
        record = self.records.get(location_of(tensor))
        if record is not None and record.depends_on_input and (record.dynamic_shape or not shape):
            self.note_decision()

    def _unify_with_next_run(self, state: Mapping[str, Tensor]) -> None:
        """Unify the axes of each tensor of the network that the run replaced by an activation with the activation's."""
        for name in sorted(state.keys() & {name for names in self.names.values() for name in names}):
            tensor = state[name]
            if name not in self.names.get(location_of(tensor), []) and location_of(tensor) in self.records:
                axes = self.records[location_of(tensor)].axes
                if [a.size for a in self.state.setdefault(name, axes)] != list(tensor.shape):
                    for axis in (*axes, *self.state[name]):
                        freeze(axis, f"{name} keeps it for the next run in another shape")
                else:
                    for axis, new_axis in zip(self.state[name], axes, strict=True):
                        unify(axis, new_axis, f"{name} keeps it for the next run")

    def _apply_rule(self, rule: Rule | None, call: Call) -> list[Axes]:
        """The axes of the results; if no rule applies, all axes of the operands are frozen."""
        reason = f"{call.label} has no rule"
        if rule:
            try:
                axes = rule(call)
                sizes = [tuple(axis.size for axis in dims) for dims in axes]
                if sizes == [tuple(t.shape) for t in call.outputs]:
                    return axes
                reason = f"{call.label} returns other shapes than its rule says"
            except UnsupportedCall as unsupported:
                reason = f"{call.label} {unsupported}"
        operands = list(call.records.values())
        if call.name == "as_strided":  # it may read all memory of its operand, not only the part that this is a view of
            operands = [r for r in self.records.values() if memory_of(r.tensor) == memory_of(call.first)]
        for axis in (axis for record in operands for axis in record.axes):
            freeze(axis, reason)
        return [tuple(map(ordered_axis, t.shape)) for t in call.outputs]

    def _add_step(self, call: Call, axes: list[Axes], depends_on_input: bool, expanded: frozenset[int]) -> Step | None:
        """The step of an operation, which is added to `steps`; None if the operation has no result."""
        if not call.outputs:
            return None
        layer, is_childless = self.running[-1]
        base = layer.replace(".", "_") + ("" if depends_on_input else f"_{call.name}") if is_childless else call.name
        uses = self.step_names[base] = self.step_names.get(base, -1) + 1
        sources = [record.step for t in call.tensors if (record := call.records[id(t)]).may_carry_groups]
        step = Step(
            operation=call.name,
            ordinal=self.calls[call.name],
            name=f"{base}_{uses}" if uses else base,
            axes=axes[0],
            shape=tuple(call.outputs[0].shape),
            depends_on_input=depends_on_input,
            is_floating_point=call.outputs[0].is_floating_point(),
            sources=tuple(source for source in sources if source is not None),
            is_sum=call.name in SUMS and sum(map(call.depends_on_input, call.tensors)) > 1,
            expanded=expanded,
        )
        self.steps.append(step)
        return step

    def _running_layer(self) -> str:
        """The innermost layer that is running, as the ending of a message: " in layer 'fc'"; "" outside of any."""
        return f" in layer {self.running[-1][0]!r}" if self.running[-1][0] else ""

    @contextmanager
    def following_layers(self) -> Iterator[None]:
        """A block in which `running` holds the modules whose forward is being called."""
        handles = []
        for name, module in self.network.named_modules():
            is_childless = bool(name) and not any(module.children())
            enter = lambda *_, entry=(name, is_childless): self.running.append(entry)  # noqa: E731
            leave = lambda *_: self.running.pop() and None  # noqa: E731 - None: the hook leaves the output as it is
            handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave, always_call=True)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _stored_buffers(network: nn.Module) -> set[str]:
    """Names of the persistent buffers, those of a checkpoint. The network computes the others itself, unpermuted."""
    return {
        f"{name}.{buffer}" if name else buffer
        for name, module in network.named_modules(remove_duplicate=False)
        for buffer in module._buffers.keys() - module._non_persistent_buffers_set
    }


def _expanded_dims(call: Call) -> frozenset[int]:
    """The dimensions of a result that hold equal values, because it or the tensor that it copies was expanded."""
    if call.name == "expand":
        (out,) = call.outputs
        return frozenset(d for d, (n, s) in enumerate(zip(out.shape, out.stride(), strict=True)) if n > 1 and s == 0)
    if len(call.tensors) == 1 and [t.shape for t in call.outputs] == [call.first.shape] and call.name in COPIES:
        return call.records[id(call.first)].expanded
    return frozenset()


def are_equal(before: Tensor, after: Tensor) -> bool:
    """Whether two tensors have the same shape and values; nan equals nan."""
    return before.shape == after.shape and bool(((before == after) | (before.isnan() & after.isnan())).all())


def _digest(*values: Any) -> str:
    """A sha256 digest of the representations of these values."""
    return hashlib.sha256(repr(values).encode()).hexdigest()


def _has_dynamic_shape(func: Operation, arguments: Mapping[str, Any]) -> bool:
    """Whether the shape of an operation's result depends on the values of its operands."""
    if torch.Tag.dynamic_output_shape not in func.tags:
        return False
    indices = arguments.get("indices")
    return not isinstance(indices, list | tuple) or any(i.dtype in MASK_TYPES for i in indices if i is not None)


def _without_values(argument: Any) -> Any:
    """An argument of an operation, with (shape, dtype) in place of each tensor."""
    if isinstance(argument, Tensor):
        return tuple(argument.shape), argument.dtype
    return [_without_values(a) for a in argument] if isinstance(argument, list | tuple) else str(argument)


def _label(name: str) -> str:
    """The layer of a tensor with one of the usual names (weight, bias, ...), else the tensor's name."""
    layer, _, last = name.rpartition(".")
    return layer if layer and last in ("weight", "bias", "running_mean", "running_var") else name
