"""Tensors on disk come back as they were saved; dtypes that safetensors files do not have are refused."""

import pytest
import torch
from safetensors import safe_open
from tiny import assert_same

from neuralign.common.errors import UserError
from neuralign.common.tensors import load_tensors, save_tensors


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
