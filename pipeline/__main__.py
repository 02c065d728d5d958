"""`python -m pipeline` is the `regsearch` command."""

from pipeline.cli import main

if __name__ == "__main__":
    main()
