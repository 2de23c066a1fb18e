"""The Python interface, `import neuralign as na`: functions to trace, align, connect, merge and compare networks.

They compute what the rules of the workflow compute, for any network and any data. They work on copies, so the network
keeps its weights and its mode. States, batches and options are checked before anything is computed;
`common.errors.UserError`, a ValueError, says what does not fit.

`batches` are `Images` (`datasets/images.py`: pixels and labels), or anything that can be iterated again and again and
yields `(inputs, targets)` or inputs alone, such as a list or a `DataLoader`. Inputs are a tensor, a tuple of the
network's positional arguments, or a mapping of its keyword arguments. What the network returns may be a tensor, a tuple
or list, a mapping or a dataclass.

`loss` is the name of a plug-in of `training/objectives/`, or a function (outputs, targets) -> scalar. `metrics` are
functions (outputs, targets) -> scalar, or one number for each example.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from neuralign.alignment.problem import Problem, certify, search
from neuralign.arguments import (
    Batches,
    Loss,
    Metrics,
    Normalisation,
    bound_plugin,
    copy_into_model,
    demand_loss,
    demand_networks,
    demand_same_kind,
    examples_of,
    merged_options,
    naming_batches,
    objective_of,
    validated,
)
from neuralign.common.errors import UserError, join_names
from neuralign.common.logs.progress import report as report_progress
from neuralign.common.tensors import ComputedState
from neuralign.config.options import (
    Count,
    FractionBelowOne,
    GridPoints,
    NonNegative,
    NonNegativeInt,
    Positive,
    Range,
    Seed,
)
from neuralign.config.plugins import Entry
from neuralign.config.signatures import reads_examples
from neuralign.curves.curve import straight_line
from neuralign.curves.endpoints import endpoints_of
from neuralign.datasets.batches import Examples, Inputs
from neuralign.datasets.images import Images, as_is
from neuralign.evaluation.along_curve import measure
from neuralign.evaluation.directions import CORNERS
from neuralign.evaluation.landscape import Landscape, landscape_of
from neuralign.merging.comparison import are_the_same, distance, matches, share_of_units
from neuralign.merging.export import check_suffix, network_with, normalisation_of, write_card, write_checkpoint
from neuralign.merging.merge import Merge, check_weights
from neuralign.merging.selection import (
    Score,
    best_merge,
    output_distance,
    parameter_distance,
    share_moved,
    split_off_validation,
    validation_loss,
)
from neuralign.merging.verdict import AVERAGED, UNMEASURED, judge
from neuralign.networks.buffer_updates import IMAGES
from neuralign.networks.model import State, buffers, parameters
from neuralign.networks.states import OPTIONAL, fitted_state
from neuralign.symmetry.permutations import Permutation, PermutationSpec
from neuralign.symmetry.permutations import permute as permute_state
from neuralign.symmetry.tracing.trace import Trace, trace
from neuralign.training.augmentation import augmented
from neuralign.training.batch_norm import Estimate, refresh
from neuralign.training.loop import Training, fit
from neuralign.training.progress import Regime

__all__ = ["Aligned", "Comparison", "Images", "Landscape", "Merged", "UserError"]
__all__ += ["align", "compare", "connect", "evaluate", "landscape", "merge", "permute", "trace"]

# what `merge` tries, by what the examples have
METHODS = {"none": ["none", "frank_wolfe"], "inputs": ["none", "frank_wolfe", "correlation"]}
METHODS["labels"] = [*METHODS["inputs"], "sinkhorn"]
REPAIRS = {"none": ["bias"], "inputs": ["reset", "repair"], "labels": ["reset", "repair"]}
LARGE = 5_000_000  # parameters above which weight matching replaces Frank-Wolfe, which takes minutes there
WORDS = ("auto", "none")  # instead of a method or a repair
EXACT_METHODS = ["single_pass", "frank_wolfe"]  # of which `compare` takes the closer alignment


@dataclass(frozen=True)
class Aligned:
    """The result of `align`."""

    state: dict[str, Tensor]  # the permuted source, which computes the same function; names as in argument `source`
    permutation: Permutation  # {group: (n,)}; {} if nothing of the network may be permuted
    certificate: float  # largest relative change of the source's outputs and gradients, in float64
    unreached: tuple[str, ...] = ()  # names of tensors that no forward pass used; the certificate does not cover them


def align(
    network: nn.Module,
    target: State,
    source: State,
    batches: Batches,
    method: str = "correlation",
    *,
    loss: Loss = "cross_entropy",
    mean: Normalisation | None = None,
    std: Normalisation | None = None,
    attention: bool = False,
    options: Mapping[str, Any] | None = None,
    **more: Any,
) -> Aligned:
    """`source` with its neurons permuted to match those of `target`; its function stays the same.

    Args:
        network: the architecture of both states.
        target, source: states or state_dicts of `network`.
        batches: of the examples on which the method compares activations; most methods need no targets.
        method: name of a plug-in of `alignment/algorithms/`.
        loss: of the training, for methods that look at it (`pam`).
        mean, std: of images: normalisation of pixels in [0, 1], one number for each channel; None: none.
        attention: whether attention heads, and channels within heads, are permuted too.
        options, more: options of the method, as a mapping or as keywords. An option with the name of an argument of
            `align`, such as `images` of "correlation", has to be in the mapping.

    All is computed on the device of the network, and there the result is. It shares no memory with `target`, `source`
    or `network`. Raises `UserError` if arguments do not fit together, and `CertificateError` if the permutation changes
    the network's function.
    """
    method_with_options = bound_plugin("alignments", "method", method, merged_options(options, more))
    examples, objective = examples_of(network, batches), objective_of(loss, None)
    model, example = copy_into_model(network, examples, mean, std)
    (target_state, _), (source_state, names) = (
        fitted_state("target", network, target),
        fitted_state("source", network, source),
    )
    with naming_batches(examples):
        symmetry = trace(model.network, example, attention=attention)
        problem = Problem(model, symmetry, target_state, source_state, examples, objective=objective)
        permutation = search(problem, method_with_options)
        permuted = {name: t.clone() for name, t in permute_state(symmetry.spec, permutation, source_state).items()}
        error = certify(problem, permutation)
    return Aligned({n: permuted[in_state] for n, in_state in names.items()}, permutation, error, symmetry.unreached)


def permute(symmetry: Trace | PermutationSpec, permutation: Permutation, state: State) -> dict[str, Tensor]:
    """`state` with its neurons permuted; the network's function stays the same.

    Args:
        symmetry: of the network, as `trace` finds it.
        permutation: {group: (n,)}, such as that of `Aligned`.
        state: of the network; tensors that the permutation does not move are those of the argument.
    """
    return permute_state(symmetry.spec if isinstance(symmetry, Trace) else symmetry, permutation, state)


class _TrainingOptions(BaseModel):
    """The allowed values of the training options of `connect`."""

    epochs: NonNegativeInt
    batch_size: Count
    lr: Positive
    momentum: FractionBelowOne
    weight_decay: NonNegative
    seed: Seed


def connect(
    network: nn.Module,
    start: State,
    end: State,
    batches: Batches,
    curve: str = "bezier",
    *,
    loss: Loss = "cross_entropy",
    epochs: int = 20,
    batch_size: int = 128,
    lr: float = 0.02,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    schedule: str = "plateau",
    seed: int = 0,
    mean: Normalisation | None = None,
    std: Normalisation | None = None,
    options: Mapping[str, Any] | None = None,
    **more: Any,
) -> Callable[[float], dict[str, Tensor]]:
    """A curve of low loss from `start` to `end`, as a function from t in [0, 1] to a state of `network`.

    Batch-norm statistics are re-estimated on `batches` at every t, at the ends too; `docs/states.md` says what the
    other tensors are. The tensors of a state have the names that they have in the argument `start`.

    Args:
        network: the architecture of both states.
        start, end: states or state_dicts of `network`. Align them first: the loss along the curve is lower then.
        batches: of the training examples, with targets.
        curve: name of a plug-in of `curves/families/`.
        loss: that is minimised.
        epochs: of the training of the bends. With 0, or for a family without bends, the curve is the straight line.
        batch_size: of images; other batches are used as they come.
        lr, momentum, weight_decay: of the training, by SGD with Nesterov momentum.
        schedule: name of a plug-in of `training/schedules/`, with its default options.
        seed: of everything that is random in the training.
        mean, std, options, more: as in `align`; the options are those of the curve.

    Raises `UserError` if arguments do not fit together, or if a tensor that cannot be interpolated differs between the
    ends. If the curve is not trained, the latter is raised only when a state between the ends is asked for.
    """
    values = dict(epochs=epochs, batch_size=batch_size, lr=lr, momentum=momentum, weight_decay=weight_decay, seed=seed)
    numbers = validated(_TrainingOptions, values, "connect")  # text such as "1/50" becomes a number
    epochs, batch_size, seed = numbers["epochs"], numbers["batch_size"], numbers["seed"]
    basis = bound_plugin("curves", "curve", curve, merged_options(options, more))
    lr_schedule = bound_plugin("schedules", "schedule", schedule, {})
    examples, objective = examples_of(network, batches), objective_of(loss, None)
    model, _ = copy_into_model(network, examples, mean, std)
    if epochs or isinstance(examples, Images):
        demand_loss(model, examples, objective, has_classes=loss == "cross_entropy")
    (start, names), (end, _) = fitted_state("start", network, start), fitted_state("end", network, end)
    if not parameters(network):
        raise UserError("the network has no parameters, so there is no path between two states of it")
    inputs, _ = next(examples.batches(IMAGES))
    ends = endpoints_of(model, (start, end), inputs)
    path = straight_line(basis, *ends.vectors)
    if epochs and len(path.bends):
        ends.demand_interpolable()
        if not ends.layout.trained_size:
            raise UserError("no parameter of the network requires gradients: only the line, with epochs=0, is possible")
        training = Training(
            model,
            path.bends[:, : ends.layout.trained_size],
            path.sample,
            ends.layout,
            ends.stored[0],
            examples,
            Regime(**{n: v for n, v in numbers.items() if n != "seed"}, schedule=lr_schedule),
            objective=objective,
            transform=as_is,
            basis=path.basis,
            seed=seed,
        )
        with naming_batches(examples):
            path = path.with_bends(fit(training).trainable.detach())
    estimate = Estimate.on(examples, as_is, batch_size=batch_size, seed=seed)

    def at(t: float) -> dict[str, Tensor]:
        if not 0 <= t <= 1:
            raise UserError(f"t: found {t}; a number from 0 to 1 is needed")
        point = ends.state_on(path, t)
        with naming_batches(examples):
            state = point | refresh(model, point, ends.statistics, estimate.sample())
        return {name: state[in_state] for name, in_state in names.items()}

    return at


def evaluate(
    network: nn.Module,
    state: State,
    batches: Batches,
    *,
    loss: Loss = "cross_entropy",
    metrics: Metrics | None = None,
    batch_size: int = 512,
    mean: Normalisation | None = None,
    std: Normalisation | None = None,
) -> dict[str, float]:
    """{metric: mean over all examples} of `network` with `state`, in evaluation mode: "loss" and the others.

    Args:
        network: the architecture of the state.
        state: a state or state_dict of `network`.
        batches: of the examples, with targets.
        loss: its metrics are measured, such as "accuracy" for "cross_entropy" or "r2" for "squared_error".
        metrics: others, by name.
        batch_size: largest number of examples at once.
        mean, std: as in `align`.

    Raises `UserError` if arguments do not fit together.
    """
    examples, objective = examples_of(network, batches), objective_of(loss, metrics)
    model, _ = copy_into_model(network, examples, mean, std)
    demand_loss(model, examples, objective, has_classes=loss == "cross_entropy")
    fitted, _ = fitted_state("state", network, state)
    generator = torch.Generator()  # there is no attack that draws from it
    with naming_batches(examples):
        return measure(
            model, fitted, examples, batch_size=batch_size, attack=None, generator=generator, objective=objective
        )


class _LandscapeOptions(BaseModel):
    """The allowed values of the options of `landscape`."""

    points: GridPoints
    t1: Range | None
    t2: Range | None
    seed: Seed
    statistics: Literal["reestimated", "stored"]
    images: Count | None
    batch_size: Count


def landscape(
    network: nn.Module,
    states: Sequence[State],
    batches: Batches,
    *,
    test: Batches | None = None,
    method: str = "none",
    points: int = 21,
    t1: Sequence[float] | None = None,
    t2: Sequence[float] | None = None,
    seed: int = 0,
    statistics: str = "reestimated",
    images: int | None = 10_000,
    loss: Loss = "cross_entropy",
    metrics: Metrics | None = None,
    batch_size: int = 512,
    mean: Normalisation | None = None,
    std: Normalisation | None = None,
    attention: bool = False,
    options: Mapping[str, Any] | None = None,
) -> Landscape:
    """The loss and the other metrics on a plane of weight space through one, two or three states of a network.

    Three states span the plane. Two span it with a random direction, or, with a `method`, with the second one aligned
    to the first. One spans it with two random directions. Each filter of a random direction has the norm of that filter
    in the first state, and biases and the parameters of norms do not move (Li et al. 2018, arXiv:1712.09913). Both axes
    of the plane are perpendicular, so the second direction is the part that is perpendicular to the first.

    Args:
        network: the architecture of the states.
        states: one to three states or state_dicts of `network`; they are called A, B and C.
        batches: of the training examples, on which networks are aligned and batch-norm statistics estimated.
        test: the examples on which metrics are measured, with targets. None: `batches`.
        method: name of a plug-in of `alignment/algorithms/`: B and C are aligned to A first. "none": they are not.
        points: of the grid in each direction. If the third network lies beside the default window, columns are added.
        t1, t2: the window that is looked at, two numbers each. The second point that spans the plane is at t1 = 1, the
            third at the height t2 = 1. None: from -0.5 to 1.5 between networks, from -1 to 1 along random directions.
        seed: of the directions, and of the order of the training examples.
        statistics: of batch norm: "reestimated" at every point, or "stored", those of the nearest network.
        images: the number of training examples on which they are re-estimated; None: all.
        loss, metrics, batch_size, mean, std: as in `evaluate`.
        attention: as in `align`.
        options: of the method.

    Raises `UserError` if arguments do not fit together, or if the states do not span a plane.
    """
    if not 1 <= len(states) <= CORNERS:
        raise UserError(f"states: found {len(states)}; one, two or three are needed")
    if method != "none" and len(states) == 1:
        raise UserError(f"method: found {method!r}, but there is no second state to align")
    values = dict(points=points, t1=t1, t2=t2, seed=seed, statistics=statistics, images=images, batch_size=batch_size)
    checked = validated(_LandscapeOptions, values, "landscape")
    examples, objective = examples_of(network, batches), objective_of(loss, metrics)
    tested = examples if test is None else examples_of(network, test)
    demand_same_kind(examples, tested)
    model, _ = copy_into_model(network, tested, mean, std)
    demand_loss(model, tested, objective, has_classes=loss == "cross_entropy")
    named = dict(zip(letters(len(states)), states, strict=True))
    fitted = {name: fitted_state(f"state {name}", network, state)[0] for name, state in named.items()}
    if method != "none":
        fitted = _aligned_to_first(
            network, fitted, examples, method, loss=loss, mean=mean, std=std, attention=attention, options=options
        )
    size, window = checked["batch_size"], (checked["t1"], checked["t2"])
    estimate = None
    if statistics == "reestimated":
        estimate = Estimate.on(examples, as_is, batch_size=size, seed=checked["seed"], images=checked["images"])
    chosen = {name: checked[name] for name in ("points", "seed", "batch_size")}
    with naming_batches(tested):
        return landscape_of(model, fitted, estimate, tested, window=window, objective=objective, **chosen)


def _aligned_to_first(
    network: nn.Module, states: dict[str, dict[str, Tensor]], examples: Examples, method: str, **options: Any
) -> dict[str, dict[str, Tensor]]:
    """The first state and the others aligned to it; of two, the second one also as it is, if there is one."""
    (name, first), *others = states.items()
    aligned = {f"{n} aligned": align(network, first, state, examples, method, **options).state for n, state in others}
    return {name: first} | (dict(others) if len(others) == 1 else {}) | aligned


@dataclass(frozen=True)
class Merged:
    """The result of `merge`."""

    network: nn.Module  # a copy of the first network with the merged weights
    permutations: tuple[Permutation, ...]  # of each network, into the order of the first
    report: dict[str, Any]  # how it was made, and how good it is

    def save(self, path: str | Path, names: Sequence[str] | None = None) -> Path:
        """Write the state_dict to a .safetensors, .pt or .pth file, and a card beside it; returns where the card is.

        `names`: of the networks that were merged, for the card; None: those of the report.
        """
        path, names = Path(path), _names(names or self.report["names"], len(self.permutations))
        check_suffix(path, "path")
        write_checkpoint(self.network.state_dict(), path)
        return write_card(path, type(self.network).__name__, [{"name": name} for name in names], self.report)


def merge(
    *networks: nn.Module,
    batches: Batches | None = None,
    example: Inputs | None = None,
    test: Batches | None = None,
    weights: Sequence[float] | None = None,
    method: str = "auto",
    repair: str = "auto",
    loss: Loss = "cross_entropy",
    mean: Normalisation | None = None,
    std: Normalisation | None = None,
    attention: bool = False,
    greedy: bool = False,
    cohort: str = "mean",
    names: Sequence[str] | None = None,
) -> Merged:
    """One network out of several of the same architecture: the mean of the networks, aligned to the first, repaired.

    Args:
        networks: at least two, with their weights.
        batches: of examples, with targets or without. 20 % of them, drawn at random, are not used to align and repair,
            but to choose between methods and repairs. At most 10,000 are used. None: no data are used.
        example: inputs for two examples or more, if there are no `batches`; the network is run on them to trace it.
        test: batches with targets, on which the result is measured once; nothing is chosen by them.
        weights: of the networks, which sum to 1; None: equal ones.
        method: "auto", "none" (the networks are not aligned), or a plug-in of `alignment/algorithms/`. "auto" tries
            none and Frank-Wolfe (for large networks weight matching); with examples also correlation; with targets also
            Sinkhorn.
        repair: "auto", "none" (the plain mean), or a plug-in of `merging/repairs/`. "auto" is `bias` without data, else
            the better of `reset` and `repair`.
        loss: of the training, as in `align`.
        mean, std, attention: as in `align`.
        greedy: whether a network is only taken into the mean if the score on the validation examples does not get
            worse (a greedy soup); needs `batches`, and no `weights`.
        cohort: how three networks or more get into one frame by the method, a plug-in of `alignment/cohorts/`: each is
            aligned to the mean of the others ("mean"), to the first ("reference"), or all at once ("frank_wolfe").
        names: of the networks, for the report; None: A, B, ...

    The report has: method, cohort (None for two networks), repair, repair_facts, names, members (names of those in the
    mean), shares (the weights), certificate, moved (share of units), attention, units (how many may be permuted),
    unreached (names of tensors that no run of the network uses; units that they may take as input are not permuted, and
    `repair` leaves them), normalisation (mean and std; empty if there is none), data ("none",
    "inputs" or "labels"), examples (how many), tried (all merges with their scores on the validation examples) and
    sentence. Where it could be measured, on the test examples or else on those for validation: what
    `merging.verdict.judge` says. Raises `UserError` if arguments do not fit together, and `CertificateError` if an
    alignment changes the function of a network.
    """
    if len(networks) < 2:
        raise UserError(f"networks: found {len(networks)}; at least 2 are needed")
    demand_networks(networks)
    first = networks[0]
    names = _names(names, len(networks))
    state, permutations, report = merge_states(
        first,
        [fitted_state(f"network {n}", first, x.state_dict())[0] for n, x in zip(names, networks, strict=True)],
        names,
        batches=batches,
        example=example,
        test=test,
        weights=weights,
        method=method,
        alignments={},
        repair=repair,
        loss=loss,
        mean=mean,
        std=std,
        attention=attention,
        greedy=greedy,
        cohort=cohort,
    )
    return Merged(network_with(first, state), permutations, report)


def merge_states(
    first: nn.Module,
    states: Sequence[State],
    names: Sequence[str],
    *,
    batches: Batches | None,
    example: Inputs | None,
    test: Batches | None,
    weights: Sequence[float] | None,
    method: str,
    alignments: Mapping[str, Entry],
    repair: str,
    loss: Loss,
    mean: Normalisation | None,
    std: Normalisation | None,
    attention: bool,
    greedy: bool,
    cohort: str,
    augment: Sequence[Entry] = (),
    as_written: Callable[[State], State] = dict,
) -> tuple[State, tuple[Permutation, ...], dict[str, Any]]:
    """(merged state, permutations, report) of `merge`, whose other arguments these are, for states.

    Without data, states whose tensors are mapped from files need memory for a few tensors and for the certificate only.
    A tensor of the merged state is then computed when it is read.

    Args:
        first: the network, with the weights of the first state.
        states: of the network, checked.
        alignments: `use` and options of a method that the name of no plug-in says.
        augment: config entries by which images to align and repair on are augmented, not those to choose or measure by.
        as_written: a state -> the same with the dtypes of its file; what is measured is read from there.
    """
    check_weights(weights, len(states))
    if batches is None and example is None:
        raise UserError("batches: found None; examples are needed, or an `example` of the inputs to trace the network")
    if greedy and (batches is None or weights is not None):
        raise UserError("greedy: found true; batches are needed, and no weights, because members are chosen")
    examples, objective = examples_of(first, [example] if batches is None else batches), objective_of(loss, None)
    known = "none" if batches is None else "inputs" if next(examples.batches(1))[1] is None else "labels"
    chosen_methods = _affordable(METHODS[known], first) if method == "auto" else [method]
    chosen_repairs = REPAIRS[known] if repair == "auto" else [repair]
    methods = {n: None if n == "none" else _bound_alignment(n, alignments) for n in chosen_methods}
    repairs = {n: None if n == "none" else bound_plugin("repairs", "repair", n, {}, WORDS) for n in chosen_repairs}
    frame = bound_plugin("cohorts", "cohort", cohort, {})
    if known == "none" and repairs[chosen_repairs[0]] and reads_examples("repairs", chosen_repairs[0]):
        raise UserError(f"repair: {repair!r} reads examples, and there are none; give some (`batches`, --data)")
    model, inputs = copy_into_model(first, examples, mean, std)
    has_classes = loss == "cross_entropy"
    measured: dict[str, Examples] = {}
    if test is not None:
        measured["test"] = examples_of(first, test)
        if batches is not None:
            demand_same_kind(examples, measured["test"])
        demand_loss(model, measured["test"], objective, has_classes=has_classes, argument="test")
    if known == "labels":
        demand_loss(model, examples, objective, has_classes=has_classes)
    with naming_batches(examples):
        fit, held_out = examples, None
        score: Score = parameter_distance
        if known != "none":
            fit, held_out = split_off_validation(examples)
            fit = augmented(fit, augment, seed=0)
            score = validation_loss(objective, held_out) if known == "labels" else output_distance(held_out)
        score = _reporting(score, "trying merges", len(methods) * len(repairs))
        symmetry = trace(model.network, inputs, attention=attention)
        for name, parameter in first.named_parameters() if isinstance(states[0], ComputedState) else ():
            parameter.data = states[0][name]  # mapped anew: the memory for what the tracer has read is free again
        problem = Problem(model, symmetry, states[0], states[0], fit, objective=objective)
        choice = best_merge(problem, states, methods, repairs, score, weights, greedy, frame, known == "none")
    permutations = choice.alignment.permutations
    report: dict[str, Any] = {
        "method": choice.method,
        "cohort": cohort if len(states) > 2 and choice.method != "none" else None,
        "repair": choice.repair,
        "repair_facts": choice.merge.facts,
        "names": list(names),
        "members": [names[i] for i in choice.members],
        "shares": _shares(choice.members, weights, len(states)),
        "certificate": choice.alignment.certificate,
        "moved": share_moved(permutations),
        "attention": attention,
        "units": sum(symmetry.spec.sizes[group] for group in symmetry.spec.free),
        "unreached": list(symmetry.unreached),
        "normalisation": normalisation_of(model),
        "data": known,
        "examples": {} if held_out is None else {"fit": len(fit), "validation": len(held_out)},
        "tried": choice.tried,
        "sentence": f"{AVERAGED}; {UNMEASURED}" if known == "none" and choice.merge.statistics else UNMEASURED,
    }
    if known == "labels" and held_out is not None:
        measured.setdefault("validation", held_out)
    if measured:
        on, labelled = next(iter(measured.items()))
        merged = {name: tensor.to(states[0][name].dtype) for name, tensor in as_written(choice.state).items()}
        with naming_batches(labelled, on):
            report |= {"measured_on": on, **judge(model, states, merged, labelled, objective, names, has_classes)}
        if on == "validation" and len(choice.tried) > 1:
            report["sentence"] += "; the same examples chose the method, which flatters the merge"
    return choice.state, permutations, report


def _bound_alignment(name: str, alignments: Mapping[str, Entry]) -> Callable[..., Any]:
    """The method of this name, as `alignments` has it, else the plug-in."""
    options = dict(alignments.get(name, {}))
    use = options.pop("use", name)
    return bound_plugin("alignments", "method", use, options, WORDS)


@dataclass(frozen=True)
class Comparison:
    """The result of `compare`."""

    equal: bool  # whether the networks have the same parameters, up to rounding
    same_up_to_permutation: bool  # whether they have, once B's neurons are permuted
    matched: float  # share of all units that match better than chance
    distance_before: float  # of the parameters, divided by the mean of the networks' norms
    distance_after: float  # when B is aligned
    layers: tuple[dict[str, Any], ...]  # of each group of units: group, units, matched, cosine, chance
    permutation: Permutation  # that aligns B to A
    other_buffers: tuple[str, ...]  # which differ, once B is aligned; counters of batch norms do not count

    @property
    def sentence(self) -> str:
        """What the comparison says."""
        if self.equal or self.same_up_to_permutation:
            but = f", but for its buffers: {join_names(list(self.other_buffers))}" if self.other_buffers else ""
            return f"B is A{'' if self.equal else ' with its neurons permuted'}{but}"
        if not self.layers:
            return f"B is not A, at a distance of {self.distance_before:.3g}, and no neuron may be permuted"
        return (
            f"B is not A with its neurons permuted: {self.matched:.0%} of the units match better than chance (about "
            f"5% if unrelated), and the distance falls from {self.distance_before:.3g} to {self.distance_after:.3g}"
        )


def compare(a: nn.Module, b: nn.Module, example: Inputs, *, attention: bool = False) -> Comparison:
    """Whether two networks are the same up to a permutation of neurons, and how many units match; no data are used.

    Args:
        a, b: networks of the same architecture, with their weights.
        example: inputs for two examples or more, on which the network is run to trace it.
        attention: as in `align`.

    `merging.comparison.matches` says what chance is. Raises `UserError` if the networks do not fit together.
    """
    demand_networks((a, b))
    examples = examples_of(a, [example])
    state, other = (fitted_state(f"network {n}", a, x.state_dict())[0] for n, x in (("A", a), ("B", b)))
    model, inputs = copy_into_model(a, examples, None, None)
    symmetry, weights = trace(model.network, inputs, attention=attention), parameters(a)
    problem, spec = Problem(model, symmetry, state, other, examples), symmetry.spec
    searches = [bound_plugin("alignments", "method", name, {}) for name in _affordable(EXACT_METHODS, a)]
    found = [dict(search(problem, method)) for method in searches]
    distances = [distance(state, permute_state(spec, permutation, other), weights) for permutation in found]
    best = min(range(len(found)), key=lambda i: distances[i])
    aligned = permute_state(spec, found[best], other)
    rows = tuple(matches(spec, state, other, weights, lambda b: search(replace(problem, source=b), searches[best])))
    before = distance(state, other, weights)
    equal, same = (are_the_same(state, second, weights) for second in (other, aligned))
    others = [name for name in buffers(a) if not name.endswith(OPTIONAL) and not are_the_same(state, aligned, [name])]
    return Comparison(equal, same, share_of_units(rows), before, distances[best], rows, found[best], tuple(others))


def _reporting(score: Score, what: str, total: int) -> Score:
    """The score, which reports how many merges had one; a greedy choice asks more than `total` times."""
    done = count(1)

    def reporting_score(merge: Merge, state: State) -> float:
        value = score(merge, state)
        report_progress(what, min(next(done), total), total)
        return value

    return reporting_score


def _affordable(methods: Sequence[str], network: nn.Module) -> list[str]:
    """The methods, for a large network with a faster one in place of Frank-Wolfe."""
    is_large = sum(parameter.numel() for parameter in network.parameters()) > LARGE
    return ["weights" if is_large and name == "frank_wolfe" else name for name in methods]


def _shares(members: Sequence[int], weights: Sequence[float] | None, count: int) -> list[float]:
    """The weights of all networks in a mean of these members; `weights` if they are given."""
    if weights is not None:
        return list(check_weights(weights, count))
    return [1 / len(members) if i in members else 0.0 for i in range(count)]


def _names(names: Sequence[str] | None, count: int) -> list[str]:
    """The names of so many networks; A, B, ... for None. Raises UserError if there are more or fewer."""
    found = letters(count) if names is None else list(names)
    if len(found) != count:
        raise UserError(f"names: found {len(found)} ({join_names(found)}); {count} are needed, one for each network")
    return found


def letters(count: int) -> list[str]:
    """Names for networks: A, B, ..., Z, then numbers."""
    return [chr(ord("A") + i) if i < 26 else str(i + 1) for i in range(count)]
