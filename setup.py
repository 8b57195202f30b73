"""The distribution is described in setup.cfg."""

from setuptools import setup

setup()
