"""One network from a checkpoint of the user's own, in the form of trained ones."""

from neuralign import foreign, setting
from neuralign.job import run


def main(data, network, *, model, checkpoint):
    _, net = setting.prepare(data, model)
    found = foreign.read(checkpoint["file"], net, checkpoint["inside"])
    setting.save(found.state, network, {"names": found.names})


if __name__ == "__main__":
    run(main)
