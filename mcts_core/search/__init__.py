"""The search: it grows one tree for each request, in plain Python, and knows no tensor.

`methods.create` begins a search (`search.Search`); `work` is what it shares with the engine.
"""
