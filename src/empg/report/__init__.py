"""What a run leaves behind, and how it is read: the folder, the statistics, the page."""
