"""Saves the certified permutations of several networks in one file, and loads them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from neuralign.alignment.common_frame.cohort import Permutations
from neuralign.alignment.common_frame.objective import join, split
from neuralign.symmetry.certificate import Certificate
from neuralign.symmetry.permutations import Permutation, PermutationSpec, check
from neuralign.symmetry.storage import load_certified, save_permutation


def save_permutations(
    permutations: Sequence[Permutation],
    proofs: Sequence[Certificate],
    path: str | Path,
    spec: PermutationSpec,
    facts: Mapping[str, Any],
    *,
    attention: bool = False,
) -> None:
    """Write permutations to `path`, that of group g of the second network as the tensor "1/g".

    The certificate of the file is the largest of the `proofs`; other arguments as in `save_permutation`.
    """
    worst = max(proofs, key=lambda proof: proof.error)
    facts = {**facts, **worst.facts(), "certificate": worst.error}
    save_permutation(join(permutations), path, spec, facts, attention=attention)


def load_permutations(path: str, spec: PermutationSpec, count: int) -> Permutations:
    """The permutations of `count` networks that `save_permutations` wrote. Raises as `load_permutation` does."""
    joint = load_certified(path, spec)
    expected = {f"{p}/{group}" for p in range(count) for group in spec.free}
    if joint.keys() != expected:
        raise ValueError(f"{path}: holds other tensors than the permutations of {count} networks")
    permutations = split(joint, count)
    for p, permutation in enumerate(permutations, 1):
        try:
            check(spec, permutation)
        except ValueError as error:
            raise ValueError(f"{path}: network {p}: {error}") from None
    return tuple(permutations)
