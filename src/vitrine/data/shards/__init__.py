"""Pictures in webdataset shards: tar files that are read from their beginning to their end."""
