"""Input that is wrong or hostile: each case is refused with one clear message, and as early as it says."""

import warnings

import hostile_archives
import hostile_artefacts
import hostile_configs
import hostile_images
import hostile_yaml
import pytest
from hostile import FETCHING, PLANNING, STARTING, TRAINING

from neuralign.config.catalogue import ConfigError
from neuralign.config.files import YamlError
from neuralign.datasets.dataset import DataError
from neuralign.training.progress import Diverged

PARTS = (hostile_configs, hostile_yaml, hostile_archives, hostile_images, hostile_artefacts)
CASES = [case for part in PARTS for case in part.CASES]
KINDS = {PLANNING: (ConfigError, YamlError, DataError), FETCHING: (DataError,), STARTING: (ValueError,)}
KINDS |= {TRAINING: (Diverged,)}


@pytest.mark.parametrize("case", CASES, ids=[f"{case.when}: {case.name}" for case in CASES])
def test_a_wrong_input_is_refused_with_one_clear_message(case, tmp_path):
    with pytest.raises(KINDS[case.when]) as refused, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        case.refused(tmp_path)
    message = str(refused.value)
    for words in case.words:
        assert words in message
    problems = refused.value.problems if isinstance(refused.value, ConfigError) else [message]
    assert all(problem.isprintable() and len(problem) < 1000 for problem in problems), "one line that a log can hold"


def test_names_of_cases_are_unique():
    names = [(case.when, case.name) for case in CASES]
    assert len(set(names)) == len(names)
