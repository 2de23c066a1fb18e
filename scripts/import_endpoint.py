"""A network from a checkpoint of the user or of a hub, in the format of the networks that the workflow trains."""

import logging

from neuralign.common.tensors import save_tensors
from neuralign.networks import foreign_checkpoints
from neuralign.networks.setup import load_data_and_model, normalisation_warnings
from neuralign.workflow.running.run import run

log = logging.getLogger("neuralign")


def main(data, network, *, model, checkpoint):
    images, net = load_data_and_model(data, model)
    path, source = foreign_checkpoints.locate(checkpoint["file"])
    imported = foreign_checkpoints.read(path, net, checkpoint["inside"])
    warnings = normalisation_warnings(net, model, images, checkpoint["file"])
    for warning in warnings:
        log.warning(warning)
    save_tensors(imported.state, network, {"names": imported.names})
    return {"checkpoint": source, "warnings": warnings}


if __name__ == "__main__":
    run(main)
