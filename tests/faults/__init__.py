"""The fault matrix: a load, one fault, and a reckoning by a verifier that knows only what the senders were told.

python -m tests.faults list
python -m tests.faults run [--short] [--only NAME] [--seed N] --json FILE
"""
