"""The certified permutations of several networks into the frame of the first, and a table of what they move."""

from functools import partial

import torch

from neuralign.alignment.common_frame.cohort import Cohort, certificates, search
from neuralign.alignment.common_frame.storage import save_permutations
from neuralign.common.tables import write_rows
from neuralign.config.plugins import plugin, plugin_or_none
from neuralign.networks.setup import load_data_and_model
from neuralign.networks.states import load_state
from neuralign.symmetry.tracing.trace import trace_model
from neuralign.training import augmentation
from neuralign.training.checkpoints import Checkpoint
from neuralign.training.loop import objective_of
from neuralign.workflow.running.run import run

COLUMNS = ("member", "units", "moved", "certificate")


def main(
    data,
    networks,
    permutations,
    facts,
    *,
    model,
    members,
    method,
    inner,
    scratch,
    attention=False,
    augment=(),
    attack=None,
    objective=None,
):
    images, net = load_data_and_model(data, model)
    cohort = Cohort(
        net,
        trace_model(net, images.train, attention=attention),
        [load_state(path, net) for path in networks],
        plugin("alignments", inner),
        images.train,
        augmentation.transform_of(augment, images.train),
        attack=plugin_or_none("attacks", attack),
        objective=objective_of(objective),
        keeper=partial(Checkpoint, scratch),
    )
    results = search(cohort, plugin("cohorts", method))
    proofs = certificates(cohort, results)
    rows = [
        {
            "member": member,
            "units": sum(map(len, result.values())),
            "moved": sum(int((index != torch.arange(len(index))).sum()) for index in result.values()),
            "certificate": proof.error,
        }
        | cohort.facts
        for member, result, proof in zip(members, results, proofs, strict=True)
    ]
    save_permutations(results, proofs, permutations, cohort.trace.spec, cohort.facts, attention=attention)
    write_rows(rows, facts, COLUMNS)
    Checkpoint(scratch).clear()


if __name__ == "__main__":
    run(main)
