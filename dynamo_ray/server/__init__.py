"""The shells: asyncio and no Ray. They turn the outside into events and perform effects; the policy
is in `core`."""
