"""The process and the host that it runs on: forks, limits, users, descriptors."""
