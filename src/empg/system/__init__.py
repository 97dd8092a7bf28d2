"""Worker processes, memory, and the cache folder of this machine."""
