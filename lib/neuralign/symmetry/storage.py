"""Saves certified permutations, and loads them if their certificate holds for the network."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from neuralign.common.tensors import load_facts, load_tensors, save_tensors
from neuralign.symmetry.certificate import tolerance_of
from neuralign.symmetry.permutations import Permutation, PermutationSpec, check, fingerprint


def save_permutation(
    permutation: Permutation,
    path: str | Path,
    spec: PermutationSpec,
    facts: Mapping[str, Any],
    *,
    attention: bool = False,
) -> None:
    """Write a permutation to `path`.

    Args:
        permutation: of free groups of `spec`.
        path: of a safetensors file.
        spec: the symmetry that it belongs to, whose fingerprint is stored.
        facts: stored with it as JSON; those of `Certificate.facts` must be among them, or it cannot be loaded.
        attention: whether heads of attentions, and channels within heads, were free when the network was traced.
    """
    save_tensors(permutation, path, {**facts, "symmetry": fingerprint(spec), "attention": attention})


def load_permutation(path: str, spec: PermutationSpec) -> Permutation:
    """The permutation {group: int64 (n,)} that `save_permutation` wrote.

    Raises ValueError if it has no certificate, or one above the tolerance, or if it belongs to another symmetry than
    `spec`.
    """
    permutation = load_certified(path, spec)
    try:
        check(spec, permutation)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return permutation


def load_certified(path: str, spec: PermutationSpec) -> dict[str, Tensor]:
    """The tensors of a file that `save_permutation` wrote. Raises as `load_permutation` does for its facts."""
    tensors, facts = load_tensors(path), load_facts(path)
    certificate = facts.get("certificate")
    if not isinstance(certificate, float | int):
        raise ValueError(f"{path}: a permutation without a certificate; only what an alignment wrote may be used")
    if not certificate <= (tolerance := tolerance_of(facts)):
        raise ValueError(f"{path}: its certificate is {certificate:.3g}, allowed is at most {tolerance:.1g}")
    if facts.get("symmetry") != fingerprint(spec):
        raise ValueError(f"{path}: its certificate is of another network, with other groups or sizes")
    return tensors


def uses_attention(path: str) -> bool:
    """Whether heads of attentions were free in the symmetry that the permutation at `path` belongs to."""
    return load_facts(path).get("attention") is True
