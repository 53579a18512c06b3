"""What the page's scripts read: cells, trials, draws and details as columns, packed as one JSON text.

Nothing here is HTML. Every text stays data until a script writes it into the page as text.
"""
