"""paramiko's own `SFTPClient.get`: PORT, USER, KEY, KNOWN_HOSTS, PATH, DEST."""

import sys

import paramiko

port, user, key, known_hosts, path, dest = sys.argv[1:]
with paramiko.SSHClient() as client:
    client.load_host_keys(known_hosts)
    client.connect(
        "127.0.0.1", int(port), user, key_filename=key, allow_agent=False, look_for_keys=False
    )
    client.open_sftp().get(path, dest)
