"""The rule that all others inherit from: environment, command line, log, and what a small job needs."""


rule job:
    """What the other rules inherit. It makes nothing itself."""
    input:
        refuse,
    log:
        "logs/job.log",
    conda:
        "../envs/neuralign.yaml"
    resources:
        **needs(),
    params:
        command=command,
    shell:
        "{params.command} > {log} 2>&1"
