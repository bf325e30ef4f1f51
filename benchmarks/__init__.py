"""Measurements: what the store costs, beside its floor and beside what people use instead."""
