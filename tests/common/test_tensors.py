"""Tensors on disk come back as they were saved; dtypes that safetensors files do not have are refused."""

import pytest
import torch
from safetensors import safe_open
from tiny import assert_same

from neuralign.common.errors import UserError
from neuralign.common.tensors import TensorFile, load_facts, load_tensors, save_tensors, save_when_computed


def test_views_and_facts_are_saved_in_one_file(tmp_path):
    big, path = torch.arange(12.0).view(3, 4), tmp_path / "new" / "x.safetensors"
    save_tensors({"a": big.T, "b": big[1:]}, path, {"certificate": "fine"})
    assert_same(load_tensors(str(path)), {"a": big.T, "b": big[1:]})
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"facts": '{"certificate": "fine"}'}
    assert [p.name for p in path.parent.iterdir()] == ["x.safetensors"]


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
@pytest.mark.parametrize("dtype", [torch.complex32, torch.complex128])
def test_a_dtype_that_safetensors_files_do_not_have_is_refused(tmp_path, dtype):
    tensors = {"fine": torch.zeros(2, dtype=torch.complex64), "waves": torch.zeros(2, dtype=dtype)}
    message = f"a.safetensors: waves has dtype {dtype}, which safetensors files do not have$"
    with pytest.raises(UserError, match=message):
        save_tensors(tensors, tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


def test_complex64_is_kept(tmp_path):
    waves = {"waves": torch.tensor([1 + 2j, 3 - 4j], dtype=torch.complex64)}
    save_tensors(waves, tmp_path / "a.safetensors")
    assert_same(load_tensors(str(tmp_path / "a.safetensors")), waves)


TENSORS = {
    "a": torch.arange(6.0).view(2, 3),
    "half": torch.arange(4).to(torch.bfloat16),
    "scalar": torch.tensor(7),
    "empty": torch.zeros(0, 2),
    "flags": torch.tensor([True, False]),
    "complex": torch.tensor([1 + 2j], dtype=torch.complex64),
}


def test_tensors_written_one_by_one_are_those_of_a_file_written_at_once(tmp_path):
    tensors = {**TENSORS, "turned": torch.arange(6.0).view(2, 3).T}
    save_when_computed(tensors, tmp_path / "one.safetensors", {"kind": "test"})
    loaded = load_tensors(str(tmp_path / "one.safetensors"))
    assert loaded.keys() == tensors.keys() and load_facts(tmp_path / "one.safetensors") == {"kind": "test"}
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype and torch.equal(loaded[name], tensor)
    save_when_computed({}, tmp_path / "none.safetensors")
    assert load_tensors(str(tmp_path / "none.safetensors")) == {}


def test_a_tensor_is_computed_once_when_it_is_written(tmp_path):
    class Counted(dict):
        reads = 0

        def __getitem__(self, name):
            Counted.reads += 1
            return super().__getitem__(name)

    save_when_computed(Counted(TENSORS), tmp_path / "a.safetensors")
    assert Counted.reads == len(TENSORS)


def test_a_file_is_a_mapping_of_tensors_that_are_read_when_they_are_asked_for(tmp_path):
    save_tensors(TENSORS, tmp_path / "a.safetensors")
    file = TensorFile(tmp_path / "a.safetensors")
    assert dict(file).keys() == TENSORS.keys() and len(file) == len(TENSORS)
    assert all(torch.equal(file[name], tensor) for name, tensor in TENSORS.items())
    assert "b" not in file
    with pytest.raises(KeyError, match="'b'"):
        file["b"]
    (tmp_path / "b.safetensors").write_bytes(b"text")
    with pytest.raises(ValueError, match=r"b\.safetensors: not a safetensors file, or damaged"):
        TensorFile(tmp_path / "b.safetensors")


def test_a_dtype_without_a_name_in_the_format_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match=r"a\.safetensors: z has dtype torch\.complex128, which safetensors files do"):
        save_when_computed({"z": torch.zeros(1, dtype=torch.complex128)}, tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())
