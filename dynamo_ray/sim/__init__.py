"""The simulator: the same core and storage under virtual time, with a faulty network and disk."""
