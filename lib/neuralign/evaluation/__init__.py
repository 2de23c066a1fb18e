"""Loss and accuracy along curves and on planes, correlation signatures, the bound of the paper."""
