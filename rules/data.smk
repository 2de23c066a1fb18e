"""Datasets: fetched, verified, prepared as one memory-mappable file each."""


rule fetch_data:
    input:
        unpack(inputs("fetch_data")),
    output:
        data="results/data/{dataset}.safetensors",
    log:
        "logs/data/{dataset}.log",
    params:
        command=command("fetch_data"),
    resources:
        mem_mb=6000,
        runtime=120,
    retries: 1
    conda:
        "../envs/neuralign.yaml"
    shell:
        "{params.command} > {log} 2>&1"
