"""Neuron alignment and mode connectivity. `snakemake --cores all` runs the default study, `snakemake --cores all STUDY` another."""

import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger
from snakemake.utils import min_version

min_version("9.19")

# of a checkout; the wheel has no such folder, and its package is on the path
sys.path.insert(0, str(Path(str(workflow.current_basedir), "lib")))

from neuralign.common.workflow_files import WORKFLOW
from neuralign.config.files import YamlError, lay_under, read
from neuralign.workflow.planning.announcement import announce
from neuralign.workflow.running.run_lock import share

try:  # to refuse, for example, a key that stands twice: Snakemake itself would take the second one
    default, *_ = [read(file) for file in (WORKFLOW / "config.yaml", *workflow.configfiles)]
except YamlError as error:
    raise WorkflowError(str(error))

# not by `configfile`, which would lay the default over the config of a Snakefile that includes this one, and which has no
# effect in a module
if not workflow.config_settings.replace_workflow_config:
    lay_under(config, default)


include: "rules/common.smk"
include: "rules/job.smk"
include: "rules/data.smk"
include: "rules/endpoints.smk"
include: "rules/curves.smk"
include: "rules/cohorts.smk"
include: "rules/reports.smk"


onstart:
    share(Path())
    announce(config, workflow.dag, logger)


localrules:  # not submitted on a cluster: fetch_data needs the internet; the others take seconds
    fetch_data,
    tabulate,
    tabulate_claims,
    tabulate_cohorts,
    tabulate_merges,
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

    rule:  # the report of the finished paths, with what is missing and why; to be asked for after failures
        name:
            f"{study}_incomplete"
        input:
            products_of_finished_part(study),
