"""What is written from the models of the config: its page of reference, and its schema for editors."""
