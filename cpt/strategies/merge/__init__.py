"""The strategy `merge`: the model of a task, or of a stage, merged with earlier ones."""
