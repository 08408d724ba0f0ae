"""Critics: what scores a state of the search. Value, process reward and outcome reward."""
