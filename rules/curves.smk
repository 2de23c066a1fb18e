"""What is done with a pair of endpoints: alignment, signatures, curves and their evaluation."""


rule align:
    input:
        unpack(inputs("align")),
    output:
        permutation="results/alignments/{dataset}/{network}/{regime}/{pair}/{alignment}.safetensors",
        moved="results/alignments/{dataset}/{network}/{regime}/{pair}/{alignment}.moved.csv",
    log:
        "logs/alignments/{dataset}/{network}/{regime}/{pair}/{alignment}.log",
    conda:
        "../envs/neuralign.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=8000,
        runtime=60,
    params:
        command=command("align"),
    shell:
        "{params.command} > {log} 2>&1"


rule signature:
    input:
        unpack(inputs("signature")),
    output:
        signature="results/signatures/{dataset}/{network}/{regime}/{pair}/{alignment}.csv",
    log:
        "logs/signatures/{dataset}/{network}/{regime}/{pair}/{alignment}.log",
    conda:
        "../envs/neuralign.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=8000,
        runtime=60,
    params:
        command=command("signature"),
    shell:
        "{params.command} > {log} 2>&1"


rule train_curve:
    input:
        unpack(inputs("train_curve")),
    output:
        bends="results/curves/{dataset}/{network}/{regime}/{pair}/{alignment}/{curve}/{curve_seed}.safetensors",
        history="results/curves/{dataset}/{network}/{regime}/{pair}/{alignment}/{curve}/{curve_seed}.history.csv",
    log:
        "logs/curves/{dataset}/{network}/{regime}/{pair}/{alignment}/{curve}/{curve_seed}.log",
    conda:
        "../envs/neuralign.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=8000,
        runtime=1440,
    params:
        command=command("train_curve"),
    shell:
        "{params.command} > {log} 2>&1"


rule evaluate:
    input:
        unpack(inputs("evaluate")),
    output:
        points="results/evaluations/{dataset}/{network}/{regime}/{pair}/{alignment}/{curve}/{curve_seed}/{evaluation}.csv",
    log:
        "logs/evaluations/{dataset}/{network}/{regime}/{pair}/{alignment}/{curve}/{curve_seed}/{evaluation}.log",
    conda:
        "../envs/neuralign.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=8000,
        runtime=720,
    params:
        command=command("evaluate"),
    shell:
        "{params.command} > {log} 2>&1"


rule plane:
    input:
        unpack(inputs("plane")),
    output:
        grid="results/planes/{dataset}/{network}/{regime}/{pair}/{alignment}/{through}/{plane}.csv",
        marks="results/planes/{dataset}/{network}/{regime}/{pair}/{alignment}/{through}/{plane}.marks.csv",
    log:
        "logs/planes/{dataset}/{network}/{regime}/{pair}/{alignment}/{through}/{plane}.log",
    conda:
        "../envs/neuralign.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=8000,
        runtime=720,
    params:
        command=command("plane"),
    shell:
        "{params.command} > {log} 2>&1"


rule midpoint:
    input:
        unpack(inputs("midpoint")),
    output:
        midpoint="results/midpoints/{dataset}/{network}/{regime}/{pair}/{alignment}/{curve}/{curve_seed}/{evaluation}.csv",
    log:
        "logs/midpoints/{dataset}/{network}/{regime}/{pair}/{alignment}/{curve}/{curve_seed}/{evaluation}.log",
    conda:
        "../envs/neuralign.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=8000,
        runtime=60,
    params:
        command=command("midpoint"),
    shell:
        "{params.command} > {log} 2>&1"


rule bound:
    input:
        unpack(inputs("bound")),
    output:
        bound="results/bounds/{dataset}/{network}/{regime}/{pair}/{alignment}.csv",
        layers="results/bounds/{dataset}/{network}/{regime}/{pair}/{alignment}.layers.csv",
    log:
        "logs/bounds/{dataset}/{network}/{regime}/{pair}/{alignment}.log",
    conda:
        "../envs/neuralign.yaml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=8000,
        runtime=60,
    params:
        command=command("bound"),
    shell:
        "{params.command} > {log} 2>&1"
