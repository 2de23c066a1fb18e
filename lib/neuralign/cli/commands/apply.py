"""`neuralign apply`: a permutation of neurons applied to other tensors of a network, such as masks or task vectors."""

import argparse
from pathlib import Path
from typing import Any

from neuralign.cli import shared

EXAMPLES = [
    "neuralign apply b.permutation.safetensors mask.pt -o mask_aligned.pt",
    "neuralign apply b.permutation.safetensors adam_state.safetensors -o adam_aligned.safetensors",
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to its parser."""
    parser.add_argument("permutation", metavar="PERMUTATION", help="a file of `neuralign align --permutation`")
    parser.add_argument(
        "tensors", metavar="TENSORS", help="tensors named as in the network: .safetensors, or saved by torch.save"
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, help="write the permuted tensors: .safetensors, .pt or .pth"
    )


def run(arguments: argparse.Namespace) -> tuple[int, dict[str, Any], str]:
    """Permute the tensors that have names of the network; the others are written as they are."""
    from neuralign.common.tensors import load_facts
    from neuralign.merging.export import check_suffix, write_checkpoint
    from neuralign.networks.foreign_checkpoints import WRAPPERS
    from neuralign.networks.foreign_files import read_mappings
    from neuralign.symmetry.other_tensors import permute_others, spec_of_data
    from neuralign.symmetry.storage import load_permutation

    check_suffix(arguments.output, "--output")
    try:
        data = load_facts(arguments.permutation).get("spec")
        if data is None:
            raise shared.UsageError(
                f"{arguments.permutation}: does not say on which tensors the neurons lie; a file that this version of "
                "`neuralign align --permutation` wrote is needed"
            )
        spec, tied = spec_of_data(data)
        permutation = load_permutation(arguments.permutation, spec)
    except ValueError as error:
        raise shared.UsageError(str(error)) from None
    mappings = read_mappings(arguments.tensors)
    names: dict[tuple[str, ...], str] = {}  # path without the names of wrappers -> name in the file that is written
    tensors = {}
    for location, named in mappings.items():
        for name, tensor in named.items():
            full = ".".join((*location, name)) if len(mappings) > 1 else name
            path = tuple(part for part in full.split(".") if part not in WRAPPERS)
            if path in names:
                raise shared.UsageError(
                    f"{arguments.tensors}: {names[path]} and {full} are one name without those of wrappers; only "
                    "one of them can be permuted"
                )
            names[path], tensors[path] = full, tensor
    try:
        permuted, known = permute_others(spec, permutation, tensors, tied)
    except ValueError as error:
        raise shared.UsageError(f"{arguments.tensors}: {error}") from None
    write_checkpoint({names[path]: tensor for path, tensor in permuted.items()}, arguments.output)
    others = [names[path] for path in tensors if path not in set(known)]
    facts = {"permuted": len(known), "unchanged": others, "output": str(arguments.output)}
    text = f"{len(known)} tensors permuted, {len(others)} without units of the network left as they are"
    return 0, facts, f"{text}\noutput: {arguments.output}"
