"""The real servers that the tests talk to, and two programmable ones.

``nginx``, ``sshd`` and ``openstack`` start the real thing on 127.0.0.1; ``tcp`` puts faults
between a client and any of them; ``raw`` is the base for servers that misbehave on purpose;
``images`` makes files to serve. Each server is a context manager and knows nothing of pytest;
``fixtures`` is the pytest plugin on top. ``tests/install-servers`` installs what they need.
"""
