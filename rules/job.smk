"""The rule that all others inherit from: environment, command line, log, and the resources of a small job."""


rule job:
    """The rule that the other rules inherit from. It makes no file."""
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
