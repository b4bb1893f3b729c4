"""`python -m raymeta`: the command line."""

from raymeta.cli import main

if __name__ == "__main__":
    main()
