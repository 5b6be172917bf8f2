"""The storm: load on every lane of a local Kafka and a real Qdrant, workers killed at random, then an independent reckoning.

python -m tests.storm --notes 20000 --images 2000 --vitals 200000 --kills 20 --json storm.json
"""
