"""Rules: what each operation of ATen does to the axes of its tensors."""
