"""The kinds of the small questions that any member answers; their fields are plain values.

    VIEW    []                     all that is known               -> VIEWED [rows, charter JSON]
    NEWS    [rows]                 what became known               -> HEARD []
    DIGESTS [digests]              the asker's (core/gossip.py)    -> KNOWN [buckets, rows]
    STATUS  []                                                     -> STATUSED [JSON]
    WHERE   [key]                                                  -> LOCATED [JSON]
    SCAN    [partition, after]  a storage node's keys after a key  -> SCANNED [keys, size, complete]
    COPY    [partition, after]  the same with states               -> COPIED [keys, states, size,
                                                                              complete]
    REPAIR  [partition or -1]      compare at once: one, or all    -> REPAIRED [JSON]

A page shorter than its size is the last one. `complete` is false if the node cannot prove that it
still has all that it acknowledged of the partition (DESIGN rule 9).

The kinds of the data path are in messages.py; kind 0 is the wire's own.
"""

from __future__ import annotations

VIEW, VIEWED = 30, 31
STATUS, STATUSED = 32, 33
WHERE, LOCATED = 34, 35
SCAN, SCANNED = 36, 37
COPY, COPIED = 38, 39
REPAIR, REPAIRED = 42, 43
NEWS, HEARD = 44, 45
DIGESTS, KNOWN = 46, 47
