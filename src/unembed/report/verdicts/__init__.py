"""What each kind of run found, in a sentence and three points: the same on terminal and page."""
