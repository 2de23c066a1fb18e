"""The correlation signature of a pair: the mean correlation of matched units per layer, before and after alignment."""

from neuralign.alignment.problem import Problem
from neuralign.common.tables import write_rows
from neuralign.evaluation.signatures import COLUMNS, compare
from neuralign.networks.setup import load_data_and_model
from neuralign.networks.states import load_state
from neuralign.symmetry.storage import load_permutation, uses_attention
from neuralign.symmetry.tracing.trace import trace_model
from neuralign.workflow.running.run import run


def main(data, target, source, permutation, signature, *, model):
    images, net = load_data_and_model(data, model)
    sides = (load_state(path, net) for path in (target, source))
    problem = Problem(net, trace_model(net, images.train, attention=uses_attention(permutation)), *sides, images.test)
    write_rows(compare(problem, load_permutation(permutation, problem.trace.spec)), signature, COLUMNS)


if __name__ == "__main__":
    run(main)
