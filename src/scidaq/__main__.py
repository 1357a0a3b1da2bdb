"""`python -m scidaq` is the program `scidaq`."""

from scidaq.cli import main

main()
