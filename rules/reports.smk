"""Studies: tables, figures and the report. None of these needs torch or a GPU."""


rule tabulate:
    input:
        unpack(inputs("tabulate")),
    output:
        accuracy="results/studies/{study}/tables/accuracy.csv",
        robust="results/studies/{study}/tables/robust.csv",
        contrasts="results/studies/{study}/tables/contrasts.csv",
        paths="results/studies/{study}/tables/paths.csv",
        points="results/studies/{study}/tables/points.csv",
    log:
        "logs/studies/{study}/tables.log",
    conda:
        "../envs/neuralign.yaml"
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        command=command("tabulate"),
    shell:
        "{params.command} > {log} 2>&1"


rule tabulate_claims:
    input:
        unpack(inputs("tabulate_claims")),
    output:
        published="results/studies/{study}/tables/published.csv",
        claims="results/studies/{study}/tables/claims.csv",
        alignments="results/studies/{study}/tables/alignments.csv",
    log:
        "logs/studies/{study}/claims.log",
    conda:
        "../envs/neuralign.yaml"
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        command=command("tabulate_claims"),
    shell:
        "{params.command} > {log} 2>&1"


rule tabulate_theory:
    input:
        unpack(inputs("tabulate_theory")),
    output:
        theory="results/studies/{study}/tables/theory.csv",
        theory_paths="results/studies/{study}/tables/theory_paths.csv",
    log:
        "logs/studies/{study}/theory.log",
    conda:
        "../envs/neuralign.yaml"
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        command=command("tabulate_theory"),
    shell:
        "{params.command} > {log} 2>&1"


rule plot:
    input:
        unpack(inputs("plot")),
    output:
        png="results/studies/{study}/figures/{figure}.png",
        pdf="results/studies/{study}/figures/{figure}.pdf",
    log:
        "logs/studies/{study}/figures/{figure}.log",
    conda:
        "../envs/neuralign.yaml"
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        command=command("plot"),
    shell:
        "{params.command} > {log} 2>&1"


rule report:
    input:
        unpack(inputs("report")),
    output:
        html="results/studies/{study}/report.html",
    log:
        "logs/studies/{study}/report.log",
    conda:
        "../envs/neuralign.yaml"
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        command=command("report"),
    shell:
        "{params.command} > {log} 2>&1"
