"""`python -m interlock` is `interlock`, where the command is not on the path."""

from interlock.cli import main

if __name__ == "__main__":
    main(prog_name="interlock")
