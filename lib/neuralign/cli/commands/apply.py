"""`neuralign apply`: a permutation of neurons applied to other tensors of a network, such as masks or task vectors."""

from pathlib import Path
from typing import Annotated, Any

import typer

from neuralign.cli.configs import UsageError
from neuralign.cli.outputs import check_outputs, checkpoint_paths
from neuralign.common.errors import join_names

DESCRIPTION = "Apply a permutation of `align` to other tensors with the network's names, such as masks or task vectors."
EXAMPLES = [
    "neuralign apply b.permutation.safetensors mask.pt -o mask_aligned.pt",
    "neuralign apply b.permutation.safetensors moments.safetensors -o moments_aligned.safetensors",
]


def run(
    permutation: Annotated[
        str, typer.Argument(metavar="PERMUTATION", help="a file of `neuralign align --permutation`")
    ],
    tensors: Annotated[
        str,
        typer.Argument(metavar="TENSORS", help="tensors named as in the network: .safetensors, or saved by torch.save"),
    ],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="FILE", help="write the permuted tensors: .safetensors, .pt or .pth"),
    ],
) -> tuple[int, dict[str, Any], str]:
    """Permute the tensors that have names of the network; the others are written as they are."""
    from neuralign.common.tensors import load_facts
    from neuralign.merging.export import check_suffix, write_checkpoint
    from neuralign.networks.foreign_checkpoints import WRAPPERS
    from neuralign.networks.foreign_files import read_mappings
    from neuralign.symmetry.other_tensors import permute_others, spec_of_data
    from neuralign.symmetry.storage import load_permutation

    check_suffix(output, "--output")
    check_outputs({"--output": output}, [Path(permutation), *checkpoint_paths([tensors])])
    try:
        data = load_facts(permutation).get("spec")
        if data is None:
            raise UsageError(
                f"{permutation}: does not say on which tensors the neurons lie; a file that this version of "
                "`neuralign align --permutation` wrote is needed"
            )
        spec, tied = spec_of_data(data)
        indices = load_permutation(permutation, spec)
    except ValueError as error:
        raise UsageError(str(error)) from None
    mappings = read_mappings(tensors)
    names: dict[tuple[str, ...], str] = {}  # path without the names of wrappers -> name in the file that is written
    named_tensors = {}
    for location, named in mappings.items():
        for name, tensor in named.items():
            full = ".".join((*location, name)) if len(mappings) > 1 else name
            path = tuple(part for part in full.split(".") if part not in WRAPPERS)
            if path in names:
                raise UsageError(
                    f"{tensors}: {names[path]} and {full} are one name without those of wrappers; only "
                    "one of them can be permuted"
                )
            names[path], named_tensors[path] = full, tensor
    try:
        permuted, known = permute_others(spec, indices, named_tensors, tied)
    except ValueError as error:
        raise UsageError(f"{tensors}: {error}") from None
    write_checkpoint({names[path]: tensor for path, tensor in permuted.items()}, output)
    others = [names[path] for path in named_tensors if path not in set(known)]
    facts = {"permuted": len(known), "unchanged": others, "output": str(output)}
    text = f"{len(known)} tensors permuted, {len(others)} left as they are"
    if others:
        text += f", in which the permutation knows no neurons: {join_names(others)}"
    return 0, facts, f"{text}\noutput: {output}"
