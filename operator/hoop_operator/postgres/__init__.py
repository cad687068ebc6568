"""The PostgreSQL side: sessions that a database owner cannot bend, one snapshot, and the execution of statements."""
