"""Studies: tables, figures and the report. None of these needs torch or a GPU."""


use rule job as tabulate with:
    """The tables of a study: its methods, robustness, contrasts, paths and points."""
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
    message:
        "Make the tables of the study {wildcards.study}"


use rule job as tabulate_claims with:
    """The paper's numbers and claims beside those of a study, and its alignments."""
    input:
        unpack(inputs("tabulate_claims")),
    output:
        published="results/studies/{study}/tables/published.csv",
        claims="results/studies/{study}/tables/claims.csv",
        alignments="results/studies/{study}/tables/alignments.csv",
    log:
        "logs/studies/{study}/claims.log",
    message:
        "Compare the study {wildcards.study} with the paper"


use rule job as tabulate_cohorts with:
    """The merged networks of a study beside their members."""
    input:
        unpack(inputs("tabulate_cohorts")),
    output:
        cohorts="results/studies/{study}/tables/cohorts.csv",
    log:
        "logs/studies/{study}/cohorts.log",
    message:
        "Make the table of merged networks of the study {wildcards.study}"


use rule job as tabulate_merges with:
    """The barriers between the networks of a study's pairs, and their means, by alignment."""
    input:
        unpack(inputs("tabulate_merges")),
    output:
        merges="results/studies/{study}/tables/merges.csv",
        merges_by_pair="results/studies/{study}/tables/merges_by_pair.csv",
        merges_contrasts="results/studies/{study}/tables/merges_contrasts.csv",
    log:
        "logs/studies/{study}/merges.log",
    message:
        "Make the tables of merged pairs of the study {wildcards.study}"


use rule job as tabulate_theory with:
    """The bounds of a study beside the losses of its trained curves."""
    input:
        unpack(inputs("tabulate_theory")),
    output:
        theory="results/studies/{study}/tables/theory.csv",
        theory_paths="results/studies/{study}/tables/theory_paths.csv",
    log:
        "logs/studies/{study}/theory.log",
    message:
        "Compare the bounds of the study {wildcards.study} with its curves"


use rule job as plot with:
    """One figure of a study."""
    input:
        unpack(inputs("plot")),
    output:
        png="results/studies/{study}/figures/{figure}.png",
        pdf="results/studies/{study}/figures/{figure}.pdf",
    log:
        "logs/studies/{study}/figures/{figure}.log",
    message:
        "Draw the figure {wildcards.figure} of the study {wildcards.study}"


use rule job as report with:
    """The page of a study: its tables, figures and notes of origin."""
    input:
        unpack(inputs("report")),
    output:
        html="results/studies/{study}/report.html",
    log:
        "logs/studies/{study}/report.log",
    message:
        "Write the report of the study {wildcards.study}"
