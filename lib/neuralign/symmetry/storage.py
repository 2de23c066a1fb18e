"""Certified permutations on disk."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
    """Write a permutation of the symmetry `spec`, with facts about it, among them its `certificate`.

    attention: whether heads of attentions, and channels within heads, were free when the symmetry was traced.
    """
    save_tensors(permutation, path, {**facts, "symmetry": fingerprint(spec), "attention": attention})


def load_permutation(path: str, spec: PermutationSpec) -> Permutation:
    """The permutation {group: indices (n,)} that `save_permutation` wrote.

    Raises ValueError for a permutation without a certificate, with one above its tolerance, or of another symmetry than
    `spec`.
    """
    permutation, facts = load_tensors(path), load_facts(path)
    certificate = facts.get("certificate")
    if not isinstance(certificate, float | int):
        raise ValueError(f"{path}: a permutation without a certificate; only what an alignment wrote may be used")
    if not certificate <= (allowed := tolerance_of(facts)):
        raise ValueError(f"{path}: its certificate is {certificate:.3g}, allowed is at most {allowed:.1g}")
    if facts.get("symmetry") != fingerprint(spec):
        raise ValueError(f"{path}: its certificate is of another network, with other groups or sizes")
    try:
        check(spec, permutation)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return permutation


def uses_attention(path: str) -> bool:
    """Whether the permutation at `path` is of a symmetry in which heads of attentions were free."""
    return load_facts(path).get("attention") is True
