"""The logger plug-in of Snakemake that `--logger neuralign` names; `neuralign run` uses it.

Snakemake finds such plug-ins by the name of a top-level package. What it does is in `neuralign.workflow.progress`.

Snakemake imports every logger plug-in that is installed, whatever runs. So `neuralign` is imported only when this one
is used: the Snakefile of a checkout would else get the installed package instead of its own.
"""

import sys
from logging import LogRecord
from typing import TYPE_CHECKING

from snakemake_interface_logger_plugins.base import LogHandlerBase

if TYPE_CHECKING:
    from neuralign.workflow.progress.display import Display


class LogHandler(LogHandlerBase):
    """Shows the progress of a run instead of Snakemake's own lines. A dry run has Snakemake's own."""

    writes_to_stream = True
    writes_to_file = False
    has_filter = True  # what `--quiet` leaves out of Snakemake's lines is needed here
    has_formatter = False
    needs_rulegraph = False

    def __post_init__(self) -> None:
        self.display = None if self.common_settings.dryrun else self._new_display()

    def _new_display(self) -> "Display":
        from rich.console import Console

        from neuralign.workflow.progress.display import Display

        no_color = True if self.common_settings.nocolor else None  # None: as the terminal and NO_COLOR say
        is_terminal = None if sys.stderr.isatty() else False  # for rich, FORCE_COLOR would make a terminal of a file
        return Display(Console(stderr=True, no_color=no_color, force_terminal=is_terminal))

    def emit(self, record: LogRecord) -> None:
        """Show what a record says. An error here is printed, and does not end the run."""
        try:
            if self.display:
                self.display.handle(record)
            elif text := self.format(record):
                print(text, file=sys.stderr)
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        """End the view with a summary."""
        if self.display:
            self.display.close()
        super().close()
