"""The fault matrix: a load, one fault, and a reckoning by a verifier that knows only what the senders were told.

python -m tests.faults list
python -m tests.faults run [--short] [--only NAME] [--seed N] [--part K/N] --json FILE
python -m tests.faults merge FILE FILE --json FILE

Reports of whole runs stand in `tests/faults/results/`. Some rows need more than Kafka and Qdrant: root (a small disk is mounted),
redis-server, libfaketime; without it they are left out, and the run says so.
"""
