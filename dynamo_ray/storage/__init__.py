"""What a node keeps on disk: its identity, an append-only log, and snapshots (DESIGN §6)."""
