"""The versions of the catalog's schema, oldest first; Alembic runs them."""
