"""Start a cluster, write, read, delete: the first five minutes.

    python examples/01_quickstart.py

Where no Ray is running, `start` begins a local one for this program; both end with the block.
"""

from __future__ import annotations

import tempfile

import dynamo_ray


def main() -> None:
    """The whole example."""
    with (
        tempfile.TemporaryDirectory() as folder,
        dynamo_ray.start("quickstart", nodes=3, data_dir=folder) as cluster,
        cluster.connect() as client,
    ):
        client.put("cart:14075", b'["book"]')
        found = client.get("cart:14075")
        print("read      ", found.value)

        # With the context of what was read, a put replaces exactly that and nothing unseen.
        done = client.put("cart:14075", b'["book", "lamp"]', context=found.context)
        client.put("cart:14075", b'["lamp"]', context=done.context)
        print("replaced  ", client.get("cart:14075").value)

        # Many keys in one call: one round trip, an outcome for each key.
        client.put_many({f"feature:{i}": str(i * i).encode() for i in range(1000)})
        squares = client.get_many(f"feature:{i}" for i in range(1000))
        print("many      ", sum(int(found.value or 0) for found in squares.values()))

        client.put("session:7", b"short-lived", ttl_s=60)
        client.delete("cart:14075")
        print("deleted   ", client.get("cart:14075").found)

        for node in cluster.status().nodes:
            print(f"node {node.name}    {node.state}, {node.keys} keys")


if __name__ == "__main__":
    main()
