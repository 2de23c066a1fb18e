"""What typer needs: the application, its options and their completion, the help and the bars."""
