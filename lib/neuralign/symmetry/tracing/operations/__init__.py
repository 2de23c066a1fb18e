"""What each operation of PyTorch does to the axes of its tensors."""
