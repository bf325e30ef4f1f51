"""`python -m tests.chaos.founder NAME FOLDER RAY_ADDRESS OPTIONS`: start a cluster and leave it.

In a process of its own: Ray ends processes that are attached to it when its parts die.
"""

from __future__ import annotations

import json
import sys


def main() -> None:
    """Found the cluster; how to reach it on stdout, as JSON."""
    import dynamo_ray

    name, folder, ray_address, options = sys.argv[1:]
    given = json.loads(options)
    cluster = dynamo_ray.start(name, data_dir=folder, ray_address=ray_address, **given)
    print(json.dumps({"addresses": cluster.addresses, "token": cluster.token}), flush=True)


if __name__ == "__main__":
    main()
