"""The commands of `neuralign`: one file per command, with `EXAMPLES` and `run`, whose parameters are its options."""
