"""One network from a checkpoint of the user's own, in the form of trained ones."""

from neuralign.networks import foreign_checkpoints
from neuralign.training import setting
from neuralign.workflow.running.run import run


def main(data, network, *, model, checkpoint):
    _, net = setting.prepare(data, model)
    found = foreign_checkpoints.read(checkpoint["file"], net, checkpoint["inside"])
    setting.save(found.state, network, {"names": found.names})


if __name__ == "__main__":
    run(main)
