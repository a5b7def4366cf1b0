"""The parts of `soak.py`. Each says in `add_flags(parser)` what it takes, and `run(arguments)` whether all held."""
