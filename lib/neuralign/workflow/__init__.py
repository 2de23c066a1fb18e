"""The jobs of the workflow: what they read, when they have to run, how they run, and what they cost."""
