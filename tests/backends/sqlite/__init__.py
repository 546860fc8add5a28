"""SQLite: files, locks, durability and the store's clock."""
