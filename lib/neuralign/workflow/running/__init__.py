"""Running one job: its process, its GPU, its locks, its note of origin and its errors."""
