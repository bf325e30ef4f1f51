"""The pure core: values, and machines that take events and return effects as data.

Nothing in here awaits, reads a clock, draws a random number, or touches a file or a socket. So the
same code runs inside actors, over loopback in one process, and under the simulator.
"""
