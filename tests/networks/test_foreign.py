"""Checkpoints of other programs: wrapped ones are read; others are refused with what differs from the network."""

import json
import pickle
import random
import zipfile
from collections import OrderedDict

import pytest
import tiny
import torch
from hostile import Trap
from safetensors.torch import save_file
from tiny import assert_same, randomised
from torch import nn

from neuralign.common.tensors import ComputedState
from neuralign.networks.foreign_checkpoints import CheckpointError, read, read_mapped


@pytest.fixture
def state(tinyten):
    """Weights by the names of the model, in float32 as people save them."""
    return {n: t.float() if t.is_floating_point() else t for n, t in randomised(tinyten.network).items()}


def prefixed(prefix, state):
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


WRAPPED = {
    "bare": ("", "", lambda s: s),
    "ordered": ("", "", OrderedDict),
    "state_dict": ("state_dict", "", lambda s: {"epoch": 3, "state_dict": s, "best": 0.5}),
    "model": ("model", "", lambda s: {"model": s, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}}),
    "data parallel": ("module", "module.", lambda s: prefixed("module.", s)),
    "compiled": ("_orig_mod", "_orig_mod.", lambda s: prefixed("_orig_mod.", s)),
    "both": ("net._orig_mod.module", "_orig_mod.module.", lambda s: {"net": prefixed("_orig_mod.module.", s)}),
    "lightning": (
        "state_dict.net",
        "net.",
        lambda s: {"state_dict": prefixed("net.", s) | {"metric.total": torch.ones(())}, "callbacks": {}},
    ),
}


@pytest.mark.parametrize("how", WRAPPED)
def test_a_wrapped_checkpoint_is_read_by_the_names_of_the_network(how, tinyten, state, tmp_path):
    inside, prefix, wrap = WRAPPED[how]
    torch.save(wrap(state), tmp_path / "a.pt")
    checkpoint = read(tmp_path / "a.pt", tinyten)
    assert_same(checkpoint.state, {n: t.double() if t.is_floating_point() else t for n, t in state.items()})
    assert checkpoint.inside == inside and checkpoint.names == {f"{prefix}{n}": n for n in state}
    assert_same(checkpoint.renamed(checkpoint.state), prefixed(prefix, state))
    assert checkpoint.unused == (["metric.total"] if how == "lightning" else [])


def test_safetensors_are_read_and_half_precision_comes_back_as_it_was(tinyten, state, tmp_path):
    half = {n: t.half() if t.is_floating_point() else t for n, t in state.items()}
    save_file(half, tmp_path / "a.safetensors")
    checkpoint = read(tmp_path / "a.safetensors", tinyten)
    assert {t.dtype for t in checkpoint.state.values()} == {torch.float64, torch.int64}
    assert_same(checkpoint.renamed(checkpoint.state), half)


def test_counts_of_batches_may_be_missing_but_nothing_else(tinyten, state, tmp_path):
    torch.save({n: t for n, t in state.items() if not n.endswith("num_batches_tracked")}, tmp_path / "a.pt")
    assert read(tmp_path / "a.pt", tinyten).state.keys() == state.keys()
    torch.save({n: t for n, t in state.items() if not n.endswith("running_mean")}, tmp_path / "b.pt")
    with pytest.raises(CheckpointError, match="missing: features.bn1.running_mean, .* and 4 more"):
        read(tmp_path / "b.pt", tinyten)


def test_one_of_two_states_in_a_file_must_be_chosen(tinyten, state, tmp_path):
    other = {n: t + 1 for n, t in state.items()}
    torch.save({"model": state, "ema": {"model": other}}, tmp_path / "a.pt")
    with pytest.raises(
        CheckpointError, match="contains 2 checkpoints of the network; choose .*`inside`: 'model', 'ema.model'"
    ):
        read(tmp_path / "a.pt", tinyten)
    checkpoint = read(tmp_path / "a.pt", tinyten, "ema.model")
    assert torch.equal(checkpoint.state["fc.bias"], other["fc.bias"].double())
    with pytest.raises(CheckpointError, match="contains no tensor of the network inside 'emma'; found model.features"):
        read(tmp_path / "a.pt", tinyten, "emma")


def without(*names):
    return lambda s: {n: t for n, t in s.items() if n not in names}


@pytest.mark.parametrize(
    "damage, message",
    [
        (without("fc.bias"), "not a checkpoint of this network: 57 of the network's 58 tensors fit; missing: fc.bias"),
        (lambda s: s | {"fc2.weight": torch.ones(3)}, "not in the network: fc2.weight"),
        (
            lambda s: s | {"fc.weight": torch.ones(5, 17)},
            "different shape: fc.weight is [5, 17], in the network [5, 16]",
        ),
        (
            lambda s: {"model": s | {"fc.weight": torch.ones(7, 16), "fc.bias": torch.ones(7)}},
            "56 of the network's 58 tensors fit inside 'model'; different shape: fc.weight is [7, 16], in the network "
            "[5, 16], fc.bias is [7], in the network [5]; the file has 7 classes, the network 5",
        ),
        (lambda s: s | {"fc.bias": torch.full((5,), float("nan"))}, "fc.bias has values that are not finite"),
        (lambda s: s | {"fc.bias": torch.ones(5, dtype=torch.int64)}, "fc.bias is torch.int64, the network's is"),
        (
            lambda s: s | {"fc.bias": torch.ones(5, dtype=torch.int8)},
            "fc.bias is torch.int8, the network's is torch.float64; quantised weights cannot be read",
        ),
        (
            lambda s: {"layer.kernel": torch.ones(2)},
            "contains no tensor of the network; found layer.kernel; the network has feat",
        ),
        (lambda s: {"epoch": 3}, "contains no named tensors; a state_dict is needed"),
        (lambda s: torch.ones(3), "contains no named tensors"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_with_the_nearest_interpretation(
    tinyten, state, tmp_path, damage, message
):
    torch.save(damage(state), tmp_path / "a.pt")
    with pytest.raises(CheckpointError) as error:
        read(tmp_path / "a.pt", tinyten)
    assert str(error.value).startswith(f"{tmp_path / 'a.pt'}: ") and message in str(error.value)
    assert "\n" not in str(error.value)


def test_nothing_in_a_file_is_executed(tinyten, tmp_path):
    pickle.loads(pickle.dumps(Trap(tmp_path / "armed")))
    assert (tmp_path / "armed").exists()  # so the trap works
    torch.save({"state_dict": Trap(tmp_path / "victim")}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"holds a Python object \(posix.mkdir\), .* save model.state_dict\(\)"):
        read(tmp_path / "a.pt", tinyten)
    assert not (tmp_path / "victim").exists()


def test_a_whole_module_is_refused_with_what_to_do(tinyten, tmp_path):
    torch.save(tinyten.network, tmp_path / "a.pt")
    with pytest.raises(
        CheckpointError, match=r"holds a Python object \(neuralign.networks.architectures.tinyten.TinyTen\)"
    ):
        read(tmp_path / "a.pt", tinyten)


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not a checkpoint at all", b"PK\x03\x04 nor an archive"])
def test_a_damaged_file_is_refused_in_one_line(tinyten, tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match="or damaged|is an empty file") as error:
        read(tmp_path / name, tinyten)
    assert "\n" not in str(error.value)
    with pytest.raises(CheckpointError, match="no such file"):
        read(tmp_path / f"other_{name}", tinyten)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.last.weight = self.first.weight
        self.register_buffer("scale", torch.ones(4), persistent=False)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("archive", [True, False])
def test_a_file_with_wrong_bytes_is_read_or_refused(tmp_path, archive):
    model, path, draws = tiny.perceptron(side=2), tmp_path / "a.pt", random.Random(0)
    torch.save({"state_dict": randomised(model.network), "epoch": 3}, path, _use_new_zipfile_serialization=archive)
    content, refused = path.read_bytes(), 0
    for _ in range(200):
        wrong = bytearray(content)
        for _ in range(8):
            wrong[draws.randrange(len(wrong))] = draws.randrange(256)
        path.write_bytes(wrong[: draws.randrange(len(wrong))] if draws.random() < 0.2 else wrong)
        try:
            read(path, model)
        except CheckpointError as error:
            refused += str(path) in str(error)
    assert refused > 50


def test_a_wrong_checksum_is_refused(tmp_path):
    """Wrong bits give other finite numbers, so only the checksum in the archive of torch.save shows them."""
    model, path = tiny.perceptron(side=2), tmp_path / "a.pt"
    state = randomised(model.network)
    torch.save(state, path)
    content, weight = path.read_bytes(), state["1.weight"].numpy().tobytes()
    position = content.index(weight) + 5
    path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
    with pytest.raises(CheckpointError, match=r"damaged: the checksum of a/data/\d in it is wrong"):
        read(path, model)


def test_shards_with_wrong_bytes_are_read_or_refused(tmp_path):
    model, draws = tiny.perceptron(side=2), random.Random(0)
    state = randomised(model.network)
    names = list(state)
    shards = {"m-00001-of-00002.safetensors": names[:4], "m-00002-of-00002.safetensors": names[4:]}
    for shard, tensors in shards.items():
        save_file({n: state[n] for n in tensors}, tmp_path / shard)
    shard_of = {n: shard for shard, tensors in shards.items() for n in tensors}
    (tmp_path / "m.safetensors.index.json").write_text(json.dumps({"weight_map": shard_of}))
    files, refused = {p: p.read_bytes() for p in sorted(tmp_path.iterdir())}, 0
    for _ in range(200):
        path = draws.choice(list(files))
        wrong = bytearray(files[path])
        for _ in range(8):
            wrong[draws.randrange(min(len(wrong), 600))] = draws.randrange(256)
        path.write_bytes(wrong[: draws.randrange(len(wrong))] if draws.random() < 0.2 else wrong)
        try:
            read(tmp_path, model)
        except CheckpointError as error:
            refused += str(tmp_path) in str(error) and str(error).isprintable()
        path.write_bytes(files[path])
    assert refused > 150


def test_a_mapping_that_contains_itself_is_read_once(tinyten, state, tmp_path):
    content = {"state_dict": state}
    content["again"] = content
    torch.save(content, tmp_path / "a.pt")
    assert_same(read(tmp_path / "a.pt", tinyten).renamed(state), state)


def test_a_file_that_is_nested_too_deeply_is_refused(tinyten, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("a/version", "3\n")
        archive.writestr("a/data.pkl", b"\x80\x02" + 2000 * b"]" + 1999 * b"a" + b".")
    with pytest.raises(CheckpointError, match="a.pt: nested too deeply; a state_dict is needed"):
        read(tmp_path / "a.pt", tinyten)


class Counted(nn.Linear):
    """A layer with extra state beside its parameters."""

    def get_extra_state(self):
        return torch.ones(3)

    def set_extra_state(self, state):
        pass


def test_extra_state_is_ignored(tmp_path):
    network = nn.Sequential(Counted(3, 2))
    torch.save(network.state_dict(), tmp_path / "a.pt")
    checkpoint = read(tmp_path / "a.pt", tiny.unnormalised(network))
    assert checkpoint.state.keys() == {"0.weight", "0.bias"} and checkpoint.unused == ["0._extra_state"]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "change, message",
    [
        (torch.Tensor.to_sparse, "fc.weight is sparse; a dense tensor of float16, bfloat16, float32 or float64"),
        (lambda t: t.to("meta"), "fc.weight is on the meta device, which keeps no numbers; a dense tensor"),
        (lambda t: torch.nested.nested_tensor([t]), "fc.weight is nested; a dense tensor"),
    ],
    ids=["sparse", "meta", "nested"],
)
def test_tensors_that_are_not_dense_are_refused(tinyten, state, tmp_path, change, message):
    torch.save({n: change(t) if n == "fc.weight" else t for n, t in state.items()}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path / "a.pt", tinyten)


def test_a_message_is_one_line_whatever_the_names(tinyten, tmp_path):
    torch.save({"a\n\x1b[31m": torch.ones(2), "b" * 10_000: torch.ones(2)}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError) as error:
        read(tmp_path / "a.pt", tinyten)
    assert str(error.value).isprintable() and len(str(error.value)) < 600


def test_tied_tensors_are_one_and_buffers_that_are_not_saved_come_from_the_network(tmp_path):
    model = tiny.unnormalised(Tied())
    weight = torch.rand(4, 4).double()
    torch.save({"first.weight": weight, "last.weight": weight}, tmp_path / "a.pt")
    checkpoint = read(tmp_path / "a.pt", model)
    assert checkpoint.state.keys() == {"first.weight", "scale"}
    assert_same(checkpoint.renamed(checkpoint.state), {"first.weight": weight, "last.weight": weight})
    torch.save({"first.weight": weight}, tmp_path / "b.pt")
    assert read(tmp_path / "b.pt", model).names == {"first.weight": "first.weight"}
    torch.save({"first.weight": weight, "last.weight": weight + 1}, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match="are one tensor in the network, but differ in the file"):
        read(tmp_path / "c.pt", model)


# ---- names of wrappers within names of tensors


class Parts(nn.Module):
    """A network of parts that people compile, wrap and save separately. One part has the name of a wrapper."""

    def __init__(self):
        super().__init__()
        self.stem, self.body = nn.Linear(4, 3), nn.ModuleList(nn.Linear(3, 3) for _ in range(2))
        self.head = nn.ModuleDict({"module": nn.Linear(3, 2)})
        self.norm = nn.BatchNorm1d(3)


def parts(seed=0):
    model = tiny.unnormalised(Parts().float())
    return model, randomised(model.network, seed)


def replacing(*changes):
    """A function that replaces, in a name, the first text of each pair by the second."""

    def rename(name):
        for old, new in changes:
            name = name.replace(old, new)
        return name

    return rename


WITHIN = {
    "a part compiled": replacing(("stem.", "stem._orig_mod.")),
    "every layer compiled": replacing(("body.0.", "body.0._orig_mod."), ("body.1.", "body.1._orig_mod.")),
    "one layer of two": replacing(("body.1.", "body.1._orig_mod.")),
    "checkpointed layers": replacing(("body.0.", "body.0._checkpoint_wrapped_module.")),
    "sharded": lambda n: "_fsdp_wrapped_module." + n.replace("body.1.", "body.1._fsdp_wrapped_module."),
    "sharded, checkpointed, compiled": lambda n: f"module.{n}".replace(
        "stem.", "_fsdp_wrapped_module._checkpoint_wrapped_module.stem._orig_mod."
    ),
    "fabric": lambda n: f"_forward_module.{n}".replace("head.", "head._forward_module.module."),
    "parallel parts": replacing(("stem.", "stem.module."), ("norm.", "norm.module.")),
    "the whole parallel, with a part of that name": lambda n: f"module.{n}",
    "twice": lambda n: f"net.module._orig_mod.{n}".replace("stem.", "stem._orig_mod._orig_mod."),
}


@pytest.mark.parametrize("how", WITHIN)
@pytest.mark.parametrize("wrap", [dict, lambda s: {"state_dict": s, "epoch": 1}], ids=["bare", "state_dict"])
def test_names_of_wrappers_within_names_are_ignored(tmp_path, how, wrap):
    model, state = parts()
    torch.save(wrap({WITHIN[how](n): t for n, t in state.items()}), tmp_path / "a.pt")
    checkpoint = read(tmp_path / "a.pt", model)
    assert_same(checkpoint.state, state)
    assert_same(checkpoint.renamed(checkpoint.state), {WITHIN[how](n): t for n, t in state.items()})


def test_a_wrapped_network_takes_a_checkpoint_without_wrapper_names(tmp_path):
    model, state = parts()
    network = nn.ModuleDict({"_orig_mod": model.network})
    torch.save(state, tmp_path / "a.pt")
    checkpoint = read(tmp_path / "a.pt", tiny.unnormalised(network))
    assert_same(checkpoint.state, prefixed("_orig_mod.", state))


def test_two_tensors_of_one_name_are_refused(tmp_path):
    model, state = parts()
    twice = state | {"stem._orig_mod.weight": state["stem.weight"] + 1}
    torch.save(twice, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="not in the network: stem._orig_mod.weight"):
        read(tmp_path / "a.pt", model)
    renamed = {n.replace("body.0.", "body.0._orig_mod."): t for n, t in twice.items()}
    torch.save(renamed, tmp_path / "b.pt")
    with pytest.raises(CheckpointError) as error:
        read(tmp_path / "b.pt", model)
    assert "stem.weight, stem._orig_mod.weight would all become stem.weight" in str(error.value)


class Alike(nn.Module):
    """A network in which two tensors have the same name if wrapper names are ignored."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2, bias=False)
        self.layer.module = nn.Linear(2, 2, bias=False)


def test_names_that_differ_only_in_a_wrapper_name_are_kept_apart(tmp_path):
    model = tiny.unnormalised(Alike())
    state = randomised(model.network)
    torch.save(prefixed("module.", state), tmp_path / "a.pt")
    assert_same(read(tmp_path / "a.pt", model).state, state)
    torch.save({n.replace("layer.", "layer.module."): t for n, t in state.items()}, tmp_path / "b.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint of this network: 1 of the network's 2 tensors fit"):
        read(tmp_path / "b.pt", model)


# ---- dictionaries of parts, lists, and several states in a file


def by_part(state):
    out: dict = {}
    for name, tensor in state.items():
        part, _, rest = name.partition(".")
        out.setdefault(part, {})[rest] = tensor
    return out


@pytest.mark.parametrize(
    "wrap",
    [
        by_part,
        lambda s: by_part(s) | {"optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}, "best": torch.ones(())},
        lambda s: {"model": by_part(s), "ema": None, "epoch": 3},
        lambda s: {"nets": [by_part(s)]},
        lambda s: {"a": {"b": by_part(prefixed("module.", s))}},
        lambda s: {part: {f"_orig_mod.{n}": t for n, t in tensors.items()} for part, tensors in by_part(s).items()},
    ],
    ids=["bare", "beside an optimizer", "in a model", "in a list", "deep and parallel", "compiled each"],
)
def test_a_dictionary_of_parts_is_joined(tmp_path, wrap):
    model, state = parts()
    torch.save(wrap(state), tmp_path / "a.pt")
    checkpoint = read(tmp_path / "a.pt", model)
    assert_same(checkpoint.state, state)
    assert len(checkpoint.renamed(checkpoint.state)) == len(state)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda p: p.pop("stem"), "missing: stem.weight, stem.bias"),
        (lambda p: p["stem"].update(scale=torch.ones(1)), "not in the network: stem.scale"),
        (lambda p: p.update(stam=p.pop("stem")), "missing: stem.weight, stem.bias"),
        (
            lambda p: p.update({"stem.weight": p["stem"]["weight"] + 1}),
            "stem.weight, stem.weight would all become",
        ),
    ],
)
def test_parts_that_do_not_fit_as_a_whole_are_refused(tmp_path, change, message):
    model, state = parts()
    states = by_part(state)
    change(states)
    torch.save(states, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path / "a.pt", model)


def test_one_of_a_list_of_states_must_be_chosen(tinyten, state, tmp_path):
    torch.save([state, {n: t + 1 for n, t in state.items()}], tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="choose one with --inside, in a config `inside`: '0', '1'"):
        read(tmp_path / "a.pt", tinyten)
    assert_same(read(tmp_path / "a.pt", tinyten, "0").stored, state)


def averaged(state):
    return {n: t + 1 if t.is_floating_point() else t for n, t in state.items()}


@pytest.mark.parametrize(
    "wrap, labels",
    [
        (lambda s: {"model": s, "model_ema": averaged(s)}, ("model", "model_ema")),
        (lambda s: {"state_dict": s, "ema": {"module": averaged(s)}}, ("state_dict", "ema.module")),
        (lambda s: s | prefixed("ema.", averaged(s)), (".", "ema")),
        (lambda s: {"state_dict": s | prefixed("module.", averaged(s))}, ("state_dict", "state_dict.module")),
        (lambda s: s | {"ema": averaged(s)}, (".", "ema")),
    ],
)
def test_weights_or_their_average_must_be_chosen(tinyten, state, tmp_path, wrap, labels):
    torch.save(wrap(state), tmp_path / "a.pt")
    with pytest.raises(CheckpointError) as error:
        read(tmp_path / "a.pt", tinyten)
    assert f"choose one with --inside, in a config `inside`: {', '.join(map(repr, labels))}" in str(error.value)
    for label, expected in zip(labels, (state, averaged(state)), strict=True):
        assert_same(read(tmp_path / "a.pt", tinyten, label).stored, expected)


def test_keys_that_differ_only_in_their_types_are_refused(tinyten, tmp_path):
    torch.save({1: torch.ones(1), "1": torch.ones(1)}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="two of the keys 1, '1' are the same as text"):
        read(tmp_path / "a.pt", tinyten)


# ---- kinds of numbers


WEIGHT, CODES = torch.rand(3, 4), torch.ones(3, 4, dtype=torch.int8)
QUANTISED = {
    "per tensor": lambda: {"0.weight": torch.quantize_per_tensor(WEIGHT, 0.1, 0, torch.qint8), "0.bias": torch.ones(3)},
    "per channel": lambda: {
        "0.weight": torch.quantize_per_channel(WEIGHT, torch.ones(3), torch.zeros(3), 0, torch.qint8),
        "0.bias": torch.ones(3),
    },
    "float8": lambda: {"0.weight": WEIGHT.to(torch.float8_e4m3fn), "0.bias": torch.ones(3)},
    "float8 with scales": lambda: {
        "0.weight": WEIGHT.to(torch.float8_e5m2),
        "0.weight_scale": torch.ones(()),
        "0.bias": torch.ones(3),
    },
    "8 bits with scales": lambda: {"0.weight": CODES, "0.SCB": torch.ones(3), "0.bias": torch.ones(3)},
    "8 bits alone": lambda: {"0.weight": CODES, "0.bias": torch.ones(3)},
    "4 bits": lambda: {
        "0.weight": torch.ones(6, 1, dtype=torch.uint8),
        "0.weight.absmax": torch.ones(1),
        "0.bias": torch.ones(3),
    },
    "packed": lambda: {"0.qweight": CODES, "0.qzeros": CODES, "0.scales": torch.ones(3), "0.bias": torch.ones(3)},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", QUANTISED)
@pytest.mark.parametrize("wrap", [dict, lambda s: {"model": s}])
def test_quantised_weights_are_refused_as_such(tmp_path, how, wrap):
    torch.save(wrap(QUANTISED[how]()), tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="quantised") as error:
        read(tmp_path / "a.pt", tiny.unnormalised(nn.Sequential(nn.Linear(4, 3))))
    assert "0." in str(error.value) and str(error.value).isprintable()


@pytest.mark.filterwarnings("ignore")
def test_weights_that_torch_has_packed_are_refused_as_quantised(tmp_path):
    network = nn.Sequential(nn.Linear(4, 3))
    packed = torch.ao.quantization.quantize_dynamic(network, {nn.Linear}, dtype=torch.qint8)
    torch.save(packed.state_dict(), tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"found quantised weights \(0.zero_point\), which cannot be read"):
        read(tmp_path / "a.pt", tiny.unnormalised(network))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_rounded_to_the_network_and_kept_for_writing(tmp_path, kind):
    model = tiny.Model(nn.Linear(3, 2), torch.zeros(3, 1, 1), torch.ones(3, 1, 1))
    state = {n: torch.randn(t.shape, generator=tiny.generator()).to(kind) for n, t in model.network.named_parameters()}
    torch.save(state, tmp_path / "a.pt")
    checkpoint = read(tmp_path / "a.pt", model)
    assert_same(checkpoint.state, {n: t.float() for n, t in state.items()})
    assert_same(checkpoint.renamed(checkpoint.stored), state)


def test_values_too_large_for_the_dtype_of_the_network_are_refused(tmp_path):
    model = tiny.Model(nn.Linear(3, 2), torch.zeros(3, 1, 1), torch.ones(3, 1, 1))
    torch.save({"weight": torch.full((2, 3), 1e300, dtype=torch.float64), "bias": torch.zeros(2)}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="weight has values that are too large for the network's torch.float32"):
        read(tmp_path / "a.pt", model)


class Masked(nn.Module):
    """A module with infinite values in a mask, an int16 counter and complex parameters."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mask", torch.full((2, 2), -torch.inf).triu(1))
        self.register_buffer("count", torch.zeros((), dtype=torch.int16))
        self.spectrum = nn.Parameter(torch.ones(3, dtype=torch.complex64))


def test_buffers_may_be_infinite_where_the_network_has_them_so(tmp_path):
    model = tiny.Model(Masked(), torch.zeros(3, 1, 1), torch.ones(3, 1, 1))
    state = {n: t.clone() for n, t in tiny.whole(model.network).items()}
    torch.save(state | {"count": torch.tensor(7)}, tmp_path / "a.pt")
    assert_same(read(tmp_path / "a.pt", model).state, state | {"count": torch.tensor(7, dtype=torch.int16)})
    for wrong, message in (
        ({"mask": state["mask"].T}, "mask has values that are not finite"),
        ({"mask": state["mask"].clone().fill_(torch.nan)}, "mask has values that are not finite"),
        ({"count": torch.tensor(70_000)}, "count is torch.int64, with values that the network's torch.int16 does not"),
        ({"spectrum": torch.ones(3)}, "spectrum is torch.float32, the network's is torch.complex64"),
    ):
        torch.save(state | wrong, tmp_path / "a.pt")
        with pytest.raises(CheckpointError, match=message):
            read(tmp_path / "a.pt", model)


@pytest.mark.parametrize("half", [False, True])
def test_mapped_tensors_are_those_that_are_read(tmp_path, tinyten, half):
    state = {n: t.half() if half and t.is_floating_point() else t for n, t in tinyten.network.state_dict().items()}
    save_file(state, tmp_path / "a.safetensors")
    whole, mapped = read(tmp_path / "a.safetensors", tinyten), read_mapped(tmp_path / "a.safetensors", tinyten)
    assert_same(dict(mapped.state), dict(whole.state))
    assert_same(dict(mapped.renamed(mapped.state)), state)
    assert isinstance(mapped.state, ComputedState)
    torch.save(state, tmp_path / "a.pt")
    assert_same(dict(read_mapped(tmp_path / "a.pt", tinyten).state), dict(whole.state))
