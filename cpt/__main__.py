"""`python -m cpt`, so that `accelerate launch -m cpt run RECIPE` works as users expect."""

from cpt.cli import main

main()
