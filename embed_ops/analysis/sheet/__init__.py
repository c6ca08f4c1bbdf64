"""Small HTML pages without scripts: `neighbors --html`, `runs --html`. `render.py` fills them."""
