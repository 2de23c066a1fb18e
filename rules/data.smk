"""Datasets, each as one file."""


use rule job as fetch_data with:
    """A dataset: downloaded or read, checked, and written as one memory-mappable file."""
    input:
        unpack(inputs("fetch_data")),
    output:
        data="results/data/{dataset}.safetensors",
    log:
        "logs/data/{dataset}.log",
    resources:
        **needs(memory=6000, minutes=120),
    message:
        "Fetch the dataset {wildcards.dataset}"
