"""The fault matrix: a load, one fault, and a reckoning by a verifier that knows only what the senders were told.

python -m tests.faults list
python -m tests.faults run [--short] [--only NAME] [--seed N] [--part K/N] --json FILE
python -m tests.faults merge FILE FILE --json FILE

Reports of whole runs stand in `tests/faults/results/`, each with its commit (+ and a digest where files differed from it), machine,
versions and seed. Some rows need more than Kafka and Qdrant: root (a small disk is mounted), redis-server, libfaketime; without it
they are left out, and run and report say so. Parts are merged where they are of the same commit, machine and seed; of a row that
was run again the worst run counts, and the others stand beside it.
"""
