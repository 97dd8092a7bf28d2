"""Worker processes, signals, memory, the keys of random numbers, and the cache folder of this machine."""
