"""`python -m pipeline` is the `regsearch` command."""

from pipeline.cli import command

if __name__ == "__main__":
    command()
