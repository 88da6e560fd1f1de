"""Ours and the alternative, turn by turn in one process: the source of every claim about speed and memory."""
