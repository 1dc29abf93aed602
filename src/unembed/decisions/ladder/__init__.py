"""One base and several variants of it over one text: how far each is, which way, at what size."""
