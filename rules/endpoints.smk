"""Endpoints: networks trained from a seed, by standard or adversarial training, or imported from a checkpoint."""


use rule job as train_endpoint with:
    """One network trained from one seed, and the history of its training."""
    input:
        unpack(inputs("train_endpoint")),
    output:
        network="results/endpoints/{dataset}/{network}/{regime}/{seed}.safetensors",
        history="results/endpoints/{dataset}/{network}/{regime}/{seed}.history.csv",
    log:
        "logs/endpoints/{dataset}/{network}/{regime}/{seed}.log",
    threads: processes("train_endpoint")
    resources:
        **training("train_endpoint", minutes=720),
    message:
        "Train %s, seed {wildcards.seed}" % NETWORK


use rule job as import_endpoint with:
    """One network from a checkpoint of the user's own."""
    input:
        unpack(inputs("import_endpoint")),
    output:
        network="results/endpoints/{dataset}/{network}/{regime}/{checkpoint}.safetensors",
    log:
        "logs/endpoints/{dataset}/{network}/{regime}/{checkpoint}.log",
    resources:
        **needs(memory=8000),
    message:
        "Import the checkpoint {wildcards.checkpoint} as %s" % NETWORK
