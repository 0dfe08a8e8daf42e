"""`python -m anydraft`: the command, where it is not installed as one."""

from anydraft.cli import main

main()
