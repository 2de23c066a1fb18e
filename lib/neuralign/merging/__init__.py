"""One network out of several: means of aligned networks, their repair, points and means of curves, and their files."""
