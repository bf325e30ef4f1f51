"""A highly available, replicated key-value store in the manner of Amazon's Dynamo, on Ray."""

__version__ = "0.1.0"
