"""What a PostgreSQL server has logged of what the operator did there."""

from integration.tenant import eventually
from local.postgresql import Server


def logged(server: Server, offset: int) -> list[str]:
    """What the server has logged beyond an offset."""
    with server.log.open("rb") as log:
        log.seek(offset)
        return log.read().decode(errors="replace").splitlines()


async def looks(server: Server, database: str, times: int = 1) -> None:
    """Wait until transactions of the operator, its looks, have ended in a database so many times more."""
    offset = server.log.stat().st_size

    async def enough() -> bool:
        ended = [line for line in logged(server, offset) if f"@{database} LOG:  statement: COMMIT" in line]
        return len(ended) >= times

    await eventually(enough, what=f"{times} looks at database {database}")
