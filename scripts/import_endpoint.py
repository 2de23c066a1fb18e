"""A network from a checkpoint of the user, in the format of the networks that the workflow trains."""

from neuralign.common.tensors import save_tensors
from neuralign.networks import foreign_checkpoints
from neuralign.networks.setup import load_data_and_model
from neuralign.workflow.running.run import run


def main(data, network, *, model, checkpoint):
    _, net = load_data_and_model(data, model)
    imported = foreign_checkpoints.read(checkpoint["file"], net, checkpoint["inside"])
    save_tensors(imported.state, network, {"names": imported.names})


if __name__ == "__main__":
    run(main)
