"""One network from a checkpoint of the user's own, in the form of trained ones."""

from neuralign.common.tensors import save_tensors
from neuralign.networks import foreign_checkpoints
from neuralign.networks.setup import prepare
from neuralign.workflow.running.run import run


def main(data, network, *, model, checkpoint):
    _, net = prepare(data, model)
    found = foreign_checkpoints.read(checkpoint["file"], net, checkpoint["inside"])
    save_tensors(found.state, network, {"names": found.names})


if __name__ == "__main__":
    run(main)
