"""What the paper claims, and what the measurements say of it."""
