"""Neuron alignment and mode connectivity. `snakemake --cores all` runs the default study, `snakemake --cores all STUDY` another."""

import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

min_version("9.19")

sys.path.insert(0, str(Path(workflow.basedir, "lib")))

from neuralign.workflow.running.run_lock import share
from neuralign.config.files import YamlError, read

try:  # Snakemake would take the last of two equal keys, and more
    for file in (f"{workflow.basedir}/config.yaml", *workflow.overwrite_configfiles):
        read(file)
except YamlError as error:
    raise WorkflowError(str(error))


configfile: f"{workflow.basedir}/config.yaml"


include: "rules/common.smk"
include: "rules/job.smk"
include: "rules/data.smk"
include: "rules/endpoints.smk"
include: "rules/curves.smk"
include: "rules/reports.smk"


onstart:
    share(Path())


localrules:  # on a cluster these run beside Snakemake: it has the internet that compute nodes lack, or they take seconds
    fetch_data,
    tabulate,
    tabulate_claims,
    tabulate_theory,
    plot,
    report,


rule all:
    default_target: True
    input:
        products(CATALOGUE.default_study),


for study in CATALOGUE.studies:

    rule:
        name:
            study
        input:
            products(study),

    rule:  # asked for where something has failed: what is there, and what is missing and why
        name:
            f"{study}_incomplete"
        input:
            there_is(study),
