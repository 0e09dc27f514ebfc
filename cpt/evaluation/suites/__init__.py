"""What a model is evaluated on: rows with a verifier, rows with a demonstration, and the tasks of lm-eval."""
