"""What a run gives to a model card and to a data set of the Hub; nothing is uploaded."""
