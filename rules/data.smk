"""Datasets: fetched, verified, prepared as one memory-mappable file each."""


rule fetch_data:
    input:
        unpack(inputs("fetch_data")),
    output:
        data="results/data/{dataset}.safetensors",
    log:
        "logs/data/{dataset}.log",
    conda:
        "../envs/neuralign.yaml"
    resources:
        mem_mb=6000,
        runtime=120,
    params:
        command=command("fetch_data"),
    shell:
        "{params.command} > {log} 2>&1"
