"""`python -m refgss`: the command line."""

from refgss.cli import main

main()
