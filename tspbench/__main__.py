"""Lets ``python -m tspbench`` run the command line, as launchers of several processes call it."""

from tspbench.cli import main

if __name__ == "__main__":
    main()
