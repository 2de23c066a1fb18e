"""Neuron alignment and mode connectivity. `snakemake --cores all` runs the default study, `snakemake --cores all STUDY` another."""

import sys
from pathlib import Path

from snakemake.utils import min_version

min_version("9.19")

sys.path.insert(0, str(Path(workflow.basedir, "lib")))


configfile: f"{workflow.basedir}/config.yaml"


include: "rules/common.smk"
include: "rules/data.smk"
include: "rules/endpoints.smk"
include: "rules/curves.smk"
include: "rules/reports.smk"


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
