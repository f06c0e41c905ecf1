"""The family of benchmark functions; `catalogue.py` lists the members."""
