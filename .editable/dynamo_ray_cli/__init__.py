"""The name `dynamo_ray_cli` in an editable install: its modules are those of the folder `cli`.

A wheel renames the folder. An editable install can only put folders on the path, and a symbolic
link in this place would make the source archive leave `cli` out (it visits no folder twice).
"""

from pathlib import Path

__path__ = [str(Path(__file__).resolve().parents[2] / "cli")]
