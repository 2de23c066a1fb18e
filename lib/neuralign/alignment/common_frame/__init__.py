"""Several networks in one frame: the cohort, the agreement of all of them, and searches that the plug-ins share."""
