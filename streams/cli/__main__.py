"""`python -m streams.cli`: the same as `vigil`; the supervisor starts lanes this way."""

from streams.cli import main

main()
