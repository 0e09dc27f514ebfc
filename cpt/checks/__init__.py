"""Does this recipe hold? What can be known without training."""
