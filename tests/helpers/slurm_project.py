"""The smoke study on Slurm with trainings that stand still and jobs that fail, and queries about its jobs."""

import fcntl
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from workflow_project import ONE_PAIR, OVERLAY, Project, environ

PROFILE = "profiles/slurm/profile.yaml"
PATIENCE = 900.0  # seconds for a run on a busy machine

# laid over the smoke study: every kind of job once, but for two endpoints, of three epochs
ONE_EPOCH = "endpoint: {epochs: 1, batch_size: 256, lr: 0.05, schedule: {use: plateau}}"
STUDY = f"""
  once:
    title: Every kind of job
    grids:{ONE_PAIR}        plane: brief
        measures: [signature, midpoint, bound]
"""
# what happens to jobs on the cluster, and on this machine does not
UNTIL_ENDED = '''
class Disturbed(Checkpoint):
    """Makes a training stand still after its first epoch, once."""

    def keep(self, progress):
        super().keep(progress)
        sign = Path("disturbed", self.path.parent.name)
        if "DISTURB" in os.environ and progress.epoch == 1 and not sign.exists():
            sign.parent.mkdir(exist_ok=True)
            sign.write_text(f"{os.environ['SLURM_JOB_ID']} {os.environ['CUDA_VISIBLE_DEVICES']}")
            time.sleep(3600)


Checkpoint = Disturbed


'''
FAILS_ONCE = """
    if "DISTURB" in os.environ and not Path("failed").exists():
        Path("failed").touch()
        raise RuntimeError("on purpose, and only once")
"""


def endpoint(seed: int) -> str:
    """The path of a trained network."""
    return f"results/endpoints/small_digits/tiny/hardened/{seed}.safetensors"


def log_of(seed: int) -> str:
    """The path of its log."""
    return f"logs/endpoints/small_digits/tiny/hardened/{seed}.log"


def disturbable(root: Path) -> Project:
    """The workflow with the study and with jobs that can be disturbed; without results."""
    project = Project.of_repository(root)
    # the GPUs of this Slurm are only names, so its jobs compute on the CPU
    project.replace("lib/neuralign/networks/setup.py", 'if first and not first.startswith("-"):', "if False:")
    project.append(OVERLAY, STUDY)
    project.replace(OVERLAY, ONE_EPOCH, ONE_EPOCH.replace("epochs: 1", "epochs: 3"))
    script, begin = "scripts/train_endpoint.py", 'if __name__ == "__main__":'
    project.replace(script, begin, UNTIL_ENDED + begin)
    project.replace(script, "import torch\n", "import os\nimport time\nfrom pathlib import Path\n\nimport torch\n")
    script, begin = "scripts/align.py", "    images, net = load_data_and_model("
    project.replace(script, begin, FAILS_ONCE + begin)
    project.replace(
        script,
        "from functools import partial\n",
        "import os\nfrom functools import partial\nfrom pathlib import Path\n",
    )
    # what a user of this cluster has to change
    project.append(PROFILE, "\ndefault-resources: {slurm_partition: main}\n")
    project.append(PROFILE, "set-resources: {train_endpoint: {runtime: 30}}\n")
    return project


class Run:
    """A run in the background, with its output in a file."""

    def __init__(self, project: Project, *arguments: str, target: str, **environment: str):
        self.project, self.output = project, project.path("run.txt")
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                project.command(*arguments, target=target),
                cwd=project.root,
                env=environ() | environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @classmethod
    def on_slurm(cls, project: Project, *arguments: str, target: str) -> "Run":
        """With the profile, and with jobs that are disturbed."""
        often = ["--slurm-init-seconds-before-status-checks", "1"]
        arguments = ("--workflow-profile", "profiles/slurm", *often, *arguments)
        return cls(project, *arguments, target=target, DISTURB="1", NEURALIGN_CHECKPOINT_SECONDS="0")

    def until(self, ready: Callable[[], object]) -> None:
        """Wait until `ready()` is true; fail if the run ends before."""
        end = time.monotonic() + PATIENCE
        while not ready():
            assert self.process.poll() is None and time.monotonic() < end, diagnosis(self.project)
            time.sleep(0.2)

    def ended(self, status: int = 0) -> str:
        """The output, once the run has ended with this status."""
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
        assert self.process.returncode == status, diagnosis(self.project)
        return self.output.read_text()

    def kill(self) -> None:
        """End the run and its children by SIGKILL, as a power cut would."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def diagnosis(project: Project) -> str:
    """The output and logs of a project's last run and of Slurm, for the message of a failed test."""
    output = project.path("run.txt")
    files = [output, *project.root.glob(".snakemake/slurm_logs/**/*.log"), *project.root.glob("logs/**/*.log")]
    files += Path("/run/neuralign-slurm/log").glob("*")
    texts = [f"\n--- {file}\n{file.read_text(errors='replace')[-4000:]}" for file in files if file.stat().st_size]
    return "".join([*texts, "\n--- squeue\n", ask("squeue", "--states=all"), output.read_text()[-4000:]])


def ask(*command: str) -> str:
    """The output of a command of Slurm."""
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def slurm_jobs(project: Project, rule: str = "") -> list[dict[str, str]]:
    """Slurm's records of the jobs of a project, or of one rule in it, in the order of submission."""
    records = [dict(re.findall(r"(\S+?)=(\S*)", text)) for text in ask("scontrol", "show", "job").split("\n\n")]
    ours = [r for r in records if r.get("WorkDir") == str(project.root) and r["Comment"].startswith(f"rule_{rule}")]
    return sorted(ours, key=lambda r: int(r["JobId"]))


def disturbed(project: Project) -> list[tuple[str, str]]:
    """(id of the Slurm job, device it sees) of the trainings that stand still or did."""
    return [
        tuple(file.read_text().split(" ")) for file in sorted(project.root.glob("disturbed/*")) if file.stat().st_size
    ]


def left_behind(project: Project) -> list[str]:
    """Jobs in the queue, processes in the folder and held locks, which must not remain after a run."""
    waiting = [
        f"job {r['JobId']}" for r in slurm_jobs(project) if r["JobState"] in ("PENDING", "RUNNING", "COMPLETING")
    ]
    held = [path for path in project.root.glob("results/.scratch/*.lock") if is_held(path)]
    locks = [f"lock {path}" for path in [*project.root.glob(".snakemake/locks/*"), *held]]
    return waiting + locks + [f"process {pid}" for pid in processes_in(project.root)]


def is_held(path: Path) -> bool:
    """Whether a process has the lock of a file."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def processes_in(folder: Path) -> list[int]:
    """Ids of the processes whose working directory is this folder."""
    pids = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if Path(os.readlink(process / "cwd")) == folder:
                pids.append(int(process.name))
        except OSError:  # it has just ended, or waits to be reaped
            continue
    return pids
