"""The servers as Ray actors: the only package that imports ray."""
