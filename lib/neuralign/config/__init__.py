"""What `config.yaml` may say, how it is checked, and how `use: name` becomes a function."""
