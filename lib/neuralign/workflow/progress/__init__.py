"""What somebody sees while a study runs: a live view on a terminal, lines elsewhere, and a summary at the end."""
