"""Endpoints: one network from one seed, standard or adversarially trained, or from a checkpoint of the user's own."""


rule train_endpoint:
    input:
        unpack(inputs("train_endpoint")),
    output:
        network="results/endpoints/{dataset}/{network}/{regime}/{seed}.safetensors",
        history="results/endpoints/{dataset}/{network}/{regime}/{seed}.history.csv",
    log:
        "logs/endpoints/{dataset}/{network}/{regime}/{seed}.log",
    conda:
        "../envs/neuralign.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=8000,
        runtime=1440,
    params:
        command=command("train_endpoint"),
    shell:
        "{params.command} > {log} 2>&1"


rule import_endpoint:
    input:
        unpack(inputs("import_endpoint")),
    output:
        network="results/endpoints/{dataset}/{network}/{regime}/{checkpoint}.safetensors",
    log:
        "logs/endpoints/{dataset}/{network}/{regime}/{checkpoint}.log",
    conda:
        "../envs/neuralign.yaml"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=10,
    params:
        command=command("import_endpoint"),
    shell:
        "{params.command} > {log} 2>&1"
