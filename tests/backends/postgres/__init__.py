"""PostgreSQL: roles, schemas and connections."""
