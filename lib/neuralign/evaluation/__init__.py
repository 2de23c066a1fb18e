"""Loss and accuracy along curves and on planes, correlation signatures, and a bound on the loss of a straight path."""
