"""Schema revisions, run by `storage.database.Database.upgrade`."""
