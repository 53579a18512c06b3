"""What a trial will take, predicted before anything is loaded: ``predict`` is the entry, ``record`` what it returns."""
