"""Jobs on several networks: their alignment in one frame, and their mean."""


use rule job as align_cohort with:
    """The permutations of several networks into the frame of the first."""
    input:
        unpack(inputs("align_cohort")),
    output:
        permutations="results/cohorts/{dataset}/{network}/{regime}/{members}/{cohort}.safetensors",
        facts="results/cohorts/{dataset}/{network}/{regime}/{members}/{cohort}.csv",
    log:
        "logs/cohorts/{dataset}/{network}/{regime}/{members}/{cohort}.log",
    resources:
        **on_gpu(minutes=60),
    message:
        "Align %s by {wildcards.cohort}" % MEMBERS


use rule job as evaluate_cohort with:
    """Loss and accuracy of several networks and of their mean, on clean and on attacked images."""
    input:
        unpack(inputs("evaluate_cohort")),
    output:
        networks_table="results/cohort_evaluations/{dataset}/{network}/{regime}/{members}/{cohort}/{evaluation}.csv",
    log:
        "logs/cohort_evaluations/{dataset}/{network}/{regime}/{members}/{cohort}/{evaluation}.log",
    resources:
        **on_gpu(minutes=60),
    message:
        "Evaluate the mean of %s, aligned by {wildcards.cohort} (evaluation {wildcards.evaluation})" % MEMBERS
