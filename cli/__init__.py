"""The command line of dynamo_ray; installed as the package `dynamo_ray_cli`.

main.py is the door: it gathers the commands, and turns every failure into an exit code and a
sentence. render.py alone knows about tables and colours. Commands import what they need when they
run, so that `--help` and `get` answer at once: Ray, pyarrow and uvloop are slow to import.
"""
