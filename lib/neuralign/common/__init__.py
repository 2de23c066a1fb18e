"""What every package uses: errors, files, tables, tensors on disk, seeded random streams."""
