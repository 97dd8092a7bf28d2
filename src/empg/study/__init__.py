"""Studies: algorithms x seeds x recipes as a resumable queue of runs, and the tables and figures made of them."""
