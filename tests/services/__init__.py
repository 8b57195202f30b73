"""Runs the tests of the services that imagebroker is made for, before and after it is swapped in.

Each service is a module here with a `SERVICE`, and a file `inside/<service>_swap.py`, whose `swap()`
runs in the environment of the service before its tests, and puts the drop-in in its place.
"""
