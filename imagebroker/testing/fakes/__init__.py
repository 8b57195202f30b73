"""Stand-ins for the unit tests of services: a broker and a backend whose images are in memory."""
