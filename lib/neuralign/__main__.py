"""`python -m neuralign`, which `pip install -e .` also installs as `neuralign`."""

import sys

from neuralign.cli import main

if __name__ == "__main__":
    sys.exit(main())
