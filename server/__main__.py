"""`python -m server`: the same as the console script `mcts-serve`."""

from server.cli import app

app()
