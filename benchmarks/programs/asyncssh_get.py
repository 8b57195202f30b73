"""asyncssh's SFTP client: PORT, USER, KEY, KNOWN_HOSTS, PATH, DEST."""

import asyncio
import sys

import asyncssh


async def main() -> None:
    port, user, key, known_hosts, path, dest = sys.argv[1:]
    async with (
        asyncssh.connect(
            "127.0.0.1", int(port), username=user, client_keys=[key], known_hosts=known_hosts,
            agent_path=None, config=None,
        ) as connection,
        connection.start_sftp_client() as sftp,
    ):  # fmt: skip
        await sftp.get(path, dest)


asyncio.run(main())
