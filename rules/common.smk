"""What all rules share: the checked config, and recipes as inputs (lib/neuralign/workflow/provenance/recipes.py says why)."""

import os
import shlex

from neuralign.workflow.running import failure
from neuralign.config.catalogue import Catalogue, ConfigError
from neuralign.config.checking.names import INCOMPLETE
from neuralign.datasets.dataset import DataError
from neuralign.workflow.running.termination import RUN
from neuralign.workflow.running.gpus import slots
from neuralign.workflow.incomplete import ended, part
from neuralign.config.references import ObjectError
from neuralign.workflow.provenance.recipes import Recipes
from neuralign.workflow.study_jobs import figures
from snakemake.exceptions import WorkflowError

try:
    CATALOGUE = Catalogue(config)
except ConfigError as error:
    raise WorkflowError(str(error))


os.environ[RUN] = str(os.getpid())  # jobs end when this process does, however it does


if workflow.local_exec and slots() and "gpu" not in workflow.global_resources:
    workflow.register_resource("gpu", len(slots()))  # jobs wait for a GPU here, not while they hold a core


def paths(rule, wildcards):
    """The output files of a job, by name."""
    return {name: str(pattern).format(**wildcards) for name, pattern in getattr(rules, rule).output.items()}


RECIPES = Recipes(CATALOGUE, Path(workflow.basedir, "scripts"), paths)


def inputs(rule):
    """An input function: the job's recipe, and the files it reads."""

    def of(wildcards):
        narrow(wildcards.get("study", ""))
        try:
            recipe = RECIPES.of(rule, dict(wildcards))
        except (ConfigError, DataError, ObjectError) as error:
            raise WorkflowError(str(error))
        try:
            written = RECIPES.write(rule, dict(wildcards))
        except OSError as error:
            raise WorkflowError(f"the results folder cannot be written to: {error}")
        workflow.iocache.exists_local[written] = True  # Snakemake may have listed its folder before
        return {"recipe": written} | recipe["inputs"]

    return of


def command(wildcards, input, resources):
    """A parameter: the command line of the job. Made from input and resources, it is no cause for a rerun itself."""
    recipe = RECIPES.written[input.recipe]
    script = Path(workflow.basedir, "scripts", f"{recipe['rule']}.py")
    environment = ["env", f"PYTHONPATH={Path(workflow.basedir, 'lib')}", *failure.KEPT_MEMORY]
    python = "python" if workflow.deployment_settings.deployment_method else sys.executable
    gpus = str(resources.get("gpu", 0))
    job = [python, "-P", str(script), input.recipe, "--key", recipe["key"], "--gpu", gpus]
    return shlex.join(environment + job)


def refuse(wildcards):
    """The input function of the rule `job`, for whoever asks for it."""
    raise WorkflowError("`job` is what the other rules inherit, and makes nothing itself: ask for a study or a file")


def needs(memory=2000, minutes=10, **others):
    """The resources of a job: memory in MB and time, of which attempt n may take n times as much, and others by name."""
    return {
        "mem_mb": lambda wildcards, attempt: memory * attempt,
        "runtime": lambda wildcards, attempt: minutes * attempt,
    } | others


def on_gpu(minutes):
    """The resources of a job that uses one GPU."""
    return needs(8000, minutes, gpu=1)


def training(minutes):
    """The resources of a job that goes on from its last checkpoint: further attempts need no more time than the first."""
    return needs(8000, gpu=1, runtime=minutes)


# parts of the rules' messages
NETWORK = "{wildcards.network} on {wildcards.dataset} ({wildcards.regime})"
PAIR = "the pair {wildcards.pair} of %s" % NETWORK
ALIGNED = "%s, aligned by {wildcards.alignment}" % PAIR
CURVE = "the curve {wildcards.curve}, seed {wildcards.curve_seed}, of %s" % ALIGNED


def known(section):
    """A wildcard constraint: one of the names of a section of the config."""
    return "|".join(map(re.escape, config.get(section) or ["-"]))  # no name starts with "-"


wildcard_constraints:
    dataset=known("datasets"),
    network=known("networks"),
    regime=known("regimes"),
    alignment=known("alignments"),
    curve=known("curves"),
    evaluation=known("evaluations"),
    plane=known("planes"),
    through=rf"initial|({known('curves')})/\d+",
    study=rf"({known('studies')})({INCOMPLETE})?",
    pair=rf"(\d+|{known('checkpoints')})-(\d+|{known('checkpoints')})",
    seed=r"\d+",
    checkpoint=known("checkpoints"),
    curve_seed=r"\d+",
    figure=r"[\w.-]+",


def products(study):
    """All that a study is for: its report, tables and figures."""
    drawn = [paths("plot", {"study": study, "figure": figure}) for figure in figures(CATALOGUE, study)]
    made = [paths("report", {"study": study}), paths("tabulate", {"study": study}), *drawn]
    return [path for files in made for path in files.values()]


def narrow(study):
    """Put the study of what is there of another into the catalogue, if this is the name of one."""
    if not study.endswith(INCOMPLETE) or study in CATALOGUE.studies:
        return
    whole = study.removesuffix(INCOMPLETE)
    found = part(CATALOGUE, whole, RECIPES.is_current, why)
    there, planned = found["missing"]["paths"]
    if not found["missing"]["jobs"]:
        raise WorkflowError(f"nothing of the study {whole} is missing: ask for {whole}")
    if not there:
        causes = "".join(f"\n  {row['rule']} {row['wildcards']}: {row['why']}" for row in found["missing"]["jobs"])
        raise WorkflowError(f"none of the {planned} paths of the study {whole} is there:{causes}")
    CATALOGUE.studies[study] = found


def why(rule, wildcards):
    """What became of a job whose results are not there."""
    log = str(getattr(rules, rule).log[0]).format(**wildcards)
    record = failure.report_path(Path(RECIPES.write(rule, wildcards)))
    return ended(record, Path(log), RECIPES.of(rule, wildcards)["key"])


def there_is(study):
    """An input function: the report, tables and figures of the part of a study that is there."""

    def of(wildcards):
        narrow(f"{study}{INCOMPLETE}")
        return products(f"{study}{INCOMPLETE}")

    return of
