"""The command line: one typer app a file."""
