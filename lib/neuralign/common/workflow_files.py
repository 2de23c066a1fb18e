"""Where the workflow around this package lies: its rules, scripts, profiles and default config.

They stand in the top-level folders of a checkout. `setup.py` copies them into the wheel, as data of this package.
"""

from neuralign.common.files import PACKAGE

_IN_WHEEL = PACKAGE / "snakemake"
IS_CHECKOUT = not _IN_WHEEL.is_dir()  # also if it is installed as editable
WORKFLOW = PACKAGE.parents[1] if IS_CHECKOUT else _IN_WHEEL
