"""`apf listen`: from a store's event notifications to batches on the interactive lane."""
