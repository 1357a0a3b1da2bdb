"""How Alembic reaches the catalog: on the connection, and in the transaction, that `Catalog.open` hands it."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
context.run_migrations()
