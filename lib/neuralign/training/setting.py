"""What the jobs of one setting share: its data, its model, and the artefacts they read and write."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from neuralign.common.files import atomic
from neuralign.config.plugins import plugin
from neuralign.curves.endpoints import Endpoints, divide
from neuralign.datasets.images import Data, as_float, load
from neuralign.networks import states
from neuralign.networks.buffer_updates import IMAGES
from neuralign.networks.foreign_networks import NetworkError
from neuralign.networks.model import Model, State, buffers, build, check_outputs, parameters, trainable
from neuralign.networks.parameters import Layout
from neuralign.symmetry.certificate import tolerance_of
from neuralign.symmetry.permutations import Permutation, Spec, check, fingerprint, permute
from neuralign.symmetry.tracing.trace import Trace, trace
from neuralign.training.loop import Attack, Regime


def device() -> torch.device:
    """The GPU this job was given, else the CPU.

    cuDNN may then use only algorithms that give the same bits every time, or a resumed training would not be the same.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.backends.cudnn.deterministic = True
    return torch.device("cuda")


def prepare(path: str, settings: dict[str, Any], seed: int | None = None) -> tuple[Data, Model]:
    """Data and model of a setting on this job's device; the model freshly initialised from `seed`."""
    data = load(path, device(), settings["input_size"])
    return data, fresh(path, data, settings, seed)


def fresh(path: str, data: Data, settings: dict[str, Any], seed: int | None = None) -> Model:
    """The model of a setting for the `data` of `path`, on this job's device, initialised from `seed`."""
    mean, std = (settings[k] or getattr(data, k) for k in ("mean", "std")) if settings["normalise"] else (None, None)
    if seed is not None:
        torch.manual_seed(seed)
    if mean is not None and len(mean) != data.channels:
        raise ValueError(f"{path}: images of {data.channels} channels, but `mean` and `std` have {len(mean)} numbers")
    model = build(settings["network"], classes=len(data.classes), channels=data.channels, mean=mean, std=std)
    model = model.to(device())
    try:
        check_outputs(model, as_float(data.train.pixels[:1]), len(data.classes))
    except NetworkError as error:
        raise NetworkError(f"{path}: {settings['network']}: {error}") from error
    return model


def regime(training: dict[str, Any]) -> Regime:
    """The training settings of a config entry, its schedule bound."""
    return Regime(**{**training, "schedule": plugin("schedules", training["schedule"])})


def attack(entry: dict[str, Any] | None) -> Attack | None:
    """The attack of a config entry; None for none."""
    return plugin("attacks", entry) if entry else None


def symmetry(model: Model, data: Data, *, attention: bool = False) -> Trace:
    """The permutation symmetry of the model, traced on one training image pair; with `attention` also of heads."""
    pixels = data.train.pixels[:2].float() / 255
    return trace(model.network, model.normalise(pixels), attention=attention)


def read_state(path: str, model: Model) -> dict[str, Tensor]:
    """Parameters and buffers of a checkpoint, refused unless they fit the model."""
    state = read(path, model.mean.device)
    states.check(path, state, {**parameters(model.network), **buffers(model.network)})
    return state


def read_ends(
    target: str, source: str, permutation: str | None, model: Model, data: Data
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Both ends of a path; the second with its neurons permuted, where there is a permutation."""
    start, end = (read_state(path, model) for path in (target, source))
    if permutation is not None:
        spec = symmetry(model, data, attention=attends(permutation)).spec
        end = permute(spec, read_permutation(permutation, spec), end)
    return start, end


def divided(model: Model, data: Data, *states: State) -> Endpoints:
    """These states as the ends of a path; refused where the network at one of them would not be its function."""
    return divide(model, states, as_float(data.train.pixels[:IMAGES]))


def attends(permutation: str) -> bool:
    """Whether a permutation is one of a symmetry with attention, as its file says."""
    return read_facts(permutation).get("attention") is True


def read_permutation(path: str, spec: Spec) -> Permutation:
    """A certified permutation from the file that `save_permutation` wrote; {group: (n,)}.

    Refused without a certificate, with one that does not hold, and where it is not of the network with this `spec`.
    """
    found = read(path)
    facts = read_facts(path)
    certificate = facts.get("certificate")
    if not isinstance(certificate, float | int):
        raise ValueError(f"{path}: a permutation without a certificate; only what an alignment wrote may be used")
    if not certificate <= (allowed := tolerance_of(facts)):
        raise ValueError(f"{path}: its certificate is {certificate:.3g}, allowed is at most {allowed:.1g}")
    if facts.get("symmetry") != fingerprint(spec):
        raise ValueError(f"{path}: its certificate is of another network, with other groups or sizes")
    try:
        check(spec, found)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return found


def save_permutation(
    permutation: Permutation, path: str | Path, spec: Spec, facts: Mapping[str, Any], *, attention: bool = False
) -> None:
    """Write a permutation with what is known of it, its `certificate` among that, and whose network and symmetry."""
    save(dict(permutation), path, {**facts, "symmetry": fingerprint(spec), "attention": attention})


def read(path: str, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """The named tensors of a safetensors file; whatever else it is, nothing in it is executed."""
    with _sound(path):
        return load_file(path, device=str(device))


def read_facts(path: str | Path) -> dict[str, Any]:
    """What `save` noted beside the tensors of a file; nothing in a file of another origin."""
    with _sound(path), safe_open(path, "pt") as file:
        noted = (file.metadata() or {}).get("facts", "{}")
    try:
        found = json.loads(noted)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


@contextmanager
def _sound(path: str | Path) -> Iterator[None]:
    """Refuse what is no safetensors file while it is being read."""
    if Path(path).is_dir():
        raise ValueError(f"{path}: is a folder, a safetensors file is needed")
    try:
        yield
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file, or damaged: {error}") from None


def save(tensors: dict[str, Tensor], path: str | Path, facts: Mapping[str, Any] | None = None) -> None:
    """Write named tensors and facts about them, as JSON, as safetensors, whole or not at all.

    The same content gives the same bytes: safetensors would put several entries of metadata in random order.
    """
    states.demand_savable(path, tensors)
    metadata = {"facts": json.dumps(dict(facts), sort_keys=True)} if facts else None
    plain = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    with atomic(path) as temporary:
        save_file(plain, temporary, metadata)


def split(model: Model, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A state's parameters that train, and what the network keeps besides: buffers and frozen parameters."""
    trains = trainable(model.network)
    names = [name for name in parameters(model.network) if name in trains]
    return {n: state[n] for n in names}, {n: t for n, t in state.items() if n not in names}


def name_bends(layout: Layout, bends: Tensor) -> dict[str, Tensor]:
    """Control points (k, d) between the ends as named tensors: bend 1's `fc.weight` is `1.fc.weight`.

    Interpolated tensors that do not train are among them.
    """
    return {f"{i}.{n}": t for i, bend in enumerate(bends, 1) for n, t in layout.views(bend).items()}


def read_bends(path: str, layout: Layout, like: Tensor) -> Tensor:
    """The control points (k, d) that `name_bends` named."""
    named = read(path, like.device)
    wanted = [{n: f"{i}.{n}" for n in layout.shapes} for i in range(1, len(like) + 1)]
    if {full for names in wanted for full in names.values()} != named.keys():
        raise ValueError(f"{path}: holds other tensors than {len(like)} bends of this network")
    for names, bend in zip(wanted, like, strict=True):
        for name, tensor in layout.views(bend).items():
            if problem := states.tensor_problem(named[names[name]], tensor):
                raise ValueError(f"{path}: {names[name]} {problem}")
    return torch.stack([layout.flatten({n: named[full] for n, full in names.items()}) for names in wanted])
