"""The commands of `neuralign`: one file per command, with `EXAMPLES`, `add_arguments(parser)` and `run(arguments)`."""
