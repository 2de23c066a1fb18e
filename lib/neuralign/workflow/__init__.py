"""What each job of the workflow needs, when it is stale, how it runs, and what it costs."""
