"""The correlation signature of a pair: how well matched units correlate in each layer, before and after alignment."""

from neuralign.alignment.problem import Problem
from neuralign.common.tables import write_rows
from neuralign.evaluation.signatures import COLUMNS, compare
from neuralign.training import setting
from neuralign.workflow.running.run import run


def main(data, target, source, permutation, signature, *, model):
    images, net = setting.prepare(data, model)
    sides = (setting.read_state(path, net) for path in (target, source))
    problem = Problem(net, setting.symmetry(net, images, attention=setting.attends(permutation)), *sides, images.test)
    write_rows(compare(problem, setting.read_permutation(permutation, problem.trace.spec)), signature, COLUMNS)


if __name__ == "__main__":
    run(main)
