"""The tables of the policy engine, one module a step, applied in order by `mesh.database.migrate`."""
