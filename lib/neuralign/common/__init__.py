"""What every package uses: errors, files, tables, seeded random streams."""
